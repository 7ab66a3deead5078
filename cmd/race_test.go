//go:build race

package cmd_test

// buildFlags has the commands under test built as the test is.
var buildFlags = []string{"-race"}
