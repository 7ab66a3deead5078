package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// tunnels starts instances of stunnel in a directory with certificates.
type tunnels struct {
	t         *testing.T
	program   string
	directory string

	// The README's configurations of stunnel.
	besideBroker, besideProducers string
}

// tunnel is one running instance of stunnel.
type tunnel struct {
	command *exec.Cmd
	address string // where it accepts connections
}

// newTunnels makes a certificate for each name, as the README says.
func newTunnels(t *testing.T, names ...string) *tunnels {
	t.Helper()
	tunnels := &tunnels{t: t, program: tool(t, "stunnel"), directory: t.TempDir()}
	text := section(t, "Running it as a service")
	makeCertificate := regexp.MustCompile(`(?m)^openssl .* broker\.crt$`).FindString(text)
	blocks := regexp.MustCompile("(?s)```ini\n(.*?)```").FindAllStringSubmatch(text, -1)
	if makeCertificate == "" || len(blocks) != 2 {
		t.Fatalf("the README has %q and %d configurations", makeCertificate, len(blocks))
	}
	tunnels.besideBroker, tunnels.besideProducers = blocks[0][1], blocks[1][1]
	for _, name := range names {
		recipe := strings.ReplaceAll(makeCertificate, "broker", name)
		openssl := exec.Command("sh", "-c", recipe)
		openssl.Dir = tunnels.directory
		if output, err := openssl.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", recipe, err, output)
		}
	}
	return tunnels
}

// configure returns a configuration of the README's for a test: with another address to
// connect to, and with the certificates of this side and of the other.
func (tunnels *tunnels) configure(configuration, connect, own, other string) string {
	for setting, value := range map[string]string{
		"accept":  "127.0.0.1:0",
		"connect": connect,
		"cert":    own + ".crt",
		"key":     own + ".key",
		"CAfile":  other + ".crt",
	} {
		line := regexp.MustCompile(`(?m)^` + setting + ` = .*$`)
		if !line.MatchString(configuration) {
			tunnels.t.Fatalf("the README's configuration has no %s:\n%s", setting, configuration)
		}
		configuration = line.ReplaceAllString(configuration, setting+" = "+value)
	}
	return "foreground = yes\npid =\ndebug = info\n" + configuration
}

// start starts an instance with a configuration. It is killed when the test ends.
func (tunnels *tunnels) start(configuration string) *tunnel {
	t := tunnels.t
	t.Helper()
	file, err := os.CreateTemp(tunnels.directory, "*.conf")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(configuration); err != nil {
		t.Fatal(err)
	}
	log := &bustest.Record{}
	tunnel := &tunnel{command: exec.Command(tunnels.program, filepath.Base(file.Name()))}
	tunnel.command.Dir, tunnel.command.Stderr = tunnels.directory, log
	start(t, tunnel.command)
	bound := regexp.MustCompile(`bound to (127\.0\.0\.1:\d+)`)
	bustest.Until(t, "the address of a tunnel", func() bool {
		found := bound.FindStringSubmatch(log.String())
		if found != nil {
			tunnel.address = found[1]
		}
		return found != nil
	})
	return tunnel
}

// Through the README's tunnel all goes as without it.
func TestTunnel(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer")
	broker := startBroker(t, "-interval", "100ms")
	near := tunnels.start(tunnels.configure(tunnels.besideBroker, broker.Address, "broker", "producer"))
	far := tunnels.start(tunnels.configure(tunnels.besideProducers, near.address, "producer", "broker"))

	const lines = 100_000
	input := strings.NewReader(strings.Join(bustest.Numbers(1, lines), "\n"))
	status, got := sendLines(t, far.address, input)
	if status != 0 || got != (report{accepted: lines}) {
		t.Errorf("status %d, %+v", status, got)
	}
	const large = 20_000_000
	producer := producerFor(far.address, strings.NewReader(strings.Repeat("x", large)))
	status, _, stderr := finish(t, producer)
	if status != 1 || !strings.Contains(stderr, "refused: the payload is too large") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if messages := broker.stopAndReceive(); !slices.Equal(messages, bustest.Numbers(1, lines)) {
		t.Errorf("%d messages are in the log, or in another order", len(messages))
	}
}

// A connection that is cut in the middle of a payload is refused whole.
func TestTunnelCut(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer")
	broker := startBroker(t, "-timeout", "1h")
	payload := bustest.Payload("t", "1", "2", "3")
	count := func(line string) int { return strings.Count(broker.Log.String(), line) }
	attempts := 0
	for _, side := range []string{"the broker", "the producer"} {
		// On a slow machine a payload may not have arrived when its connection is cut.
		bustest.Until(t, "a refusal after a cut beside "+side, func() bool {
			before := count("refused payload from")
			near := tunnels.start(tunnels.configure(tunnels.besideBroker, broker.Address, "broker", "producer"))
			far := tunnels.start(tunnels.configure(tunnels.besideProducers, near.address, "producer", "broker"))
			connection := bustest.NewClient(t, far.address, broker.Log).Dial()
			defer connection.Close()
			connection.Put(payload[:len(payload)-1])
			bustest.Until(t, "the payload's arrival", broker.isBusy)
			if side == "the broker" {
				near.command.Process.Kill()
			} else {
				far.command.Process.Kill()
			}
			attempts++
			broker.Accept(bustest.Payload("after", "x"), 1)
			bustest.Until(t, "the line after it", func() bool {
				return count("new message dispatched on topic after\n") == attempts
			})
			return count("refused payload from") > before
		})
	}
	broker.Accept(bustest.Payload("t", "4"), 1)
	if messages := broker.stopAndReceive(); !slices.Equal(messages, []string{"4"}) {
		t.Errorf("the messages are %q", messages)
	}
}

// Who has not the right certificate gets nowhere, on either side.
func TestTunnelStrangers(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer", "stranger")
	broker := startBroker(t, "-interval", "0")
	near := tunnels.start(tunnels.configure(tunnels.besideBroker, broker.Address, "broker", "producer"))
	produce := func(address, text string) (status int) {
		t.Helper()
		status, _, _ = finish(t, producerFor(address, nil, "-message", text))
		return status
	}
	without := regexp.MustCompile(`(?m)^(cert|key) = .*\n`)
	stranger := tunnels.configure(tunnels.besideProducers, near.address, "stranger", "broker")
	for name, address := range map[string]string{
		"without a tunnel":         near.address,
		"with another certificate": tunnels.start(stranger).address,
		"without a certificate":    tunnels.start(without.ReplaceAllString(stranger, "")).address,
	} {
		if status := produce(address, name); status == 0 {
			t.Errorf("a producer %s: status %d", name, status)
		}
	}
	far := tunnels.start(tunnels.configure(tunnels.besideProducers, near.address, "producer", "broker"))
	if status := produce(far.address, "right"); status != 0 {
		t.Errorf("the right producer: status %d", status)
	}

	// Beside the broker of a stranger, the producer's stunnel sends it nothing.
	strange := startBroker(t, "-interval", "0")
	near = tunnels.start(tunnels.configure(tunnels.besideBroker, strange.Address, "stranger", "producer"))
	far = tunnels.start(tunnels.configure(tunnels.besideProducers, near.address, "producer", "broker"))
	if status := produce(far.address, "to a stranger"); status == 0 {
		t.Error("a producer sends to a stranger")
	}
	if messages := strange.stopAndReceive(); len(messages) > 0 {
		t.Errorf("a stranger has %q", messages)
	}
	if messages := broker.stopAndReceive(); !slices.Equal(messages, []string{"right"}) {
		t.Errorf("the messages are %q", messages)
	}
}

// A broker that listens beyond this machine says at its start who can send, and one that
// does not, does not.
func TestListensBeyond(t *testing.T) {
	const line = "Broker: anybody who reaches this port can send messages: there is no authentication"
	local := startBroker(t, "-phost", "localhost")
	local.stop()
	if strings.Contains(local.Log.String(), line) {
		t.Errorf("on localhost, the log is\n%s", local.Log)
	}
	// In a network of its own the broker is out of everybody's reach.
	unshare := tool(t, "unshare")
	if output, err := exec.Command(unshare, "-rn", "true").CombinedOutput(); err != nil {
		t.Skipf("there is no network to listen on that nobody reaches: %v: %s", err, output)
	}
	for _, host := range []string{"0.0.0.0", "::"} {
		broker := startCommand(t, exec.Command(unshare, "-rn",
			filepath.Join(binaries, "broker"), "-phost", host, "-pport", "0"))
		broker.Expect(line)
		broker.stop()
	}
}
