package bustest

import (
	"os"
	"strings"
	"testing"
)

// Section returns the text of the section with this title in the README at path. It fails the
// test if there is none.
func Section(t testing.TB, path, title string) string {
	t.Helper()
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n## "+title+"\n")
	if !found {
		t.Fatalf("the README has no section %s", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}
