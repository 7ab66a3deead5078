//go:build race

package cmd_test

// buildFlags are the flags of go build for the commands under test. They have the race
// detector if the test has it.
var buildFlags = []string{"-race"}
