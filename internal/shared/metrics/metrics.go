// Package metrics writes numbers in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats), also to a file. Prometheus'
// node_exporter reads such files from its textfile directory.
package metrics

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"mbus/internal/shared/osfile"
)

// start begins each file of counts.
const start = "# HELP mbus_"

// Text is a text with numbers. The zero value has none.
type Text []byte

// Add adds a number with a name. It is a counter if the name ends with _total, otherwise a gauge.
// The help is a sentence in one line. The first name of a file begins with mbus_.
func (t *Text) Add(name, help string, value int) {
	t.AddLabeled(name, "", help, value)
}

// AddLabeled is Add for a number with a label; see Label.
func (t *Text) AddLabeled(name, label, help string, value int) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	*t = fmt.Appendf(*t, "# HELP %[1]s %[2]s\n# TYPE %[1]s %[3]s\n%[1]s%[4]s %[5]d\n",
		name, help, kind, label, value)
}

// Label returns a label for AddLabeled. The value may be any text.
func Label(name, value string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(
		strings.ToValidUTF8(value, "\ufffd"))
	return fmt.Sprintf(`{%s="%s"}`, name, escaped)
}

// Write replaces the file at path by text, which everybody may read. A reader finds the old text or
// the new one, whole. The error is that of Check, or of writing.
func Write(path string, text Text) error {
	if err := Check(path); err != nil {
		return err
	}
	return osfile.Replace(path, text, 0o644)
}

// Check returns an error if Write must not replace what is at path: it is neither empty nor a file
// of counts. It returns nil if there is nothing.
func Check(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return nil // if the directory can't be searched, it can't be written either
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: must be a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	begin := make([]byte, len(start))
	count, err := io.ReadFull(file, begin)
	if err != io.EOF && !bytes.Equal(begin[:count], []byte(start)) {
		return fmt.Errorf("%s: is not a file of counts, it was left as it is", path)
	}
	return nil
}
