package metrics_test

import (
	"testing"

	"mbus/internal/shared/metrics"
)

// The wanted text is written by hand from the specification of the format.
func TestText(t *testing.T) {
	var text metrics.Text
	text.Add("mbus_a_total", "Help.", 1)
	label := metrics.Label("state", "a\\\"\n\xff'")
	text.AddLabeled("mbus_b", label, "More help.", -2)
	const want = `# HELP mbus_a_total Help.
# TYPE mbus_a_total counter
mbus_a_total 1
# HELP mbus_b More help.
# TYPE mbus_b gauge
mbus_b{state="a\\\"\n` + "\ufffd" + `'"} -2
`
	if got := string(text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
