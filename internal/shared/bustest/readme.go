package bustest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Section returns the text of the section with this title in the README at path. It fails the
// test if there is none.
func Section(t testing.TB, path, title string) string {
	t.Helper()
	_, text, found := strings.Cut(Read(t, path), "\n## "+title+"\n")
	if !found {
		t.Fatalf("%s has no section %s", path, title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// Blocks returns the blocks of a language in a section of the README at path.
func Blocks(t testing.TB, path, title, language string) []string {
	t.Helper()
	var blocks []string
	block := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```$")
	for _, match := range block.FindAllStringSubmatch(Section(t, path, title), -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// Read returns the text of the file at path.
func Read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
