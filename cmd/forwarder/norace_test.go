//go:build !race

package main_test

// buildFlags has the commands under test built as the test is.
var buildFlags []string
