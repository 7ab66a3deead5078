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

	// The manual page's configurations of stunnel.
	brokerSide, producerSide string
}

// tunnel is one running instance of stunnel.
type tunnel struct {
	command *exec.Cmd
	address string // accepts connections
}

// newTunnels makes a certificate for each name with the command of the broker's manual page.
func newTunnels(t *testing.T, names ...string) *tunnels {
	t.Helper()
	tunnels := &tunnels{t: t, program: tool(t, "stunnel"), directory: t.TempDir()}
	displays := manualDisplays(t, "mbus-broker.8", "TUNNELS", 4)
	recipe := displays[1]
	tunnels.brokerSide, tunnels.producerSide = displays[2], displays[3]
	recipe = strings.Replace(recipe, "in broker producer;", "in "+strings.Join(names, " ")+";", 1)
	openssl := exec.Command("sh", "-c", recipe)
	openssl.Dir = tunnels.directory
	if output, err := openssl.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", recipe, err, output)
	}
	return tunnels
}

// configure changes one of the page's configurations for a test. Its tunnel connects to the
// address connect. Own and other are the names of this side's certificate and the other side's.
func (tn *tunnels) configure(configuration, connect, own, other string) string {
	for setting, value := range map[string]string{
		"accept":  "127.0.0.1:0",
		"connect": connect,
		"cert":    own + ".crt",
		"key":     own + ".key",
		"CAfile":  other + ".crt",
	} {
		line := regexp.MustCompile(`(?m)^` + setting + ` = .*$`)
		if !line.MatchString(configuration) {
			tn.t.Fatalf("the configuration has no %s:\n%s", setting, configuration)
		}
		configuration = line.ReplaceAllString(configuration, setting+" = "+value)
	}
	return "foreground = yes\npid =\ndebug = info\n" + configuration
}

// startNear starts a tunnel on the broker's side. Its certificate has the name own, and it accepts
// the certificate of the producer.
func (tn *tunnels) startNear(broker, own string) *tunnel {
	tn.t.Helper()
	return tn.start(tn.configure(tn.brokerSide, broker, own, "producer"))
}

// startFar starts a tunnel on the producer's side, which connects to the tunnel near.
func (tn *tunnels) startFar(near *tunnel) *tunnel {
	tn.t.Helper()
	configuration := tn.configure(tn.producerSide, near.address, "producer", "broker")
	return tn.start(configuration)
}

// start starts a tunnel with a configuration. It is killed when the test ends.
func (tn *tunnels) start(configuration string) *tunnel {
	t := tn.t
	t.Helper()
	file, err := os.CreateTemp(tn.directory, "*.conf")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(configuration); err != nil {
		t.Fatal(err)
	}
	log := &bustest.Record{}
	tunnel := &tunnel{command: exec.Command(tn.program, filepath.Base(file.Name()))}
	tunnel.command.Dir, tunnel.command.Stderr = tn.directory, log
	bustest.Start(t, tunnel.command)
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

// Through the manual page's tunnel, lines and refusals arrive as they do without it.
func TestTunnel(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer")
	broker := startBroker(t, "-interval", "100ms")
	far := tunnels.startFar(tunnels.startNear(broker.Address, "broker"))

	const lines = 100_000
	input := strings.NewReader(strings.Join(bustest.Numbers(1, lines), "\n"))
	status, got := sendLines(t, far.address, input)
	if status != 0 || got != (report{accepted: lines}) {
		t.Errorf("the producer ended with status %d and reported %+v", status, got)
	}
	const large = 20_000_000
	producer := producerFor(far.address, strings.NewReader(strings.Repeat("x", large)))
	status, _, stderr := finish(t, producer)
	if status != 1 || !strings.Contains(stderr, "refused: the payload is too large") {
		t.Errorf("with a large payload the producer ended with status %d: %s", status, stderr)
	}
	if messages := broker.stopAndReceive(); !slices.Equal(messages, bustest.Numbers(1, lines)) {
		t.Errorf("the log has %d messages, want the %d lines in order", len(messages), lines)
	}
}

// When either end of the tunnel is killed in the middle of a payload, the broker refuses the whole
// payload.
func TestTunnelCut(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer")
	broker := startBroker(t, "-timeout", "1h")
	payload := bustest.Payload("t", "1", "2", "3")
	count := func(line string) int { return strings.Count(broker.Log.String(), line) }
	attempts := 0
	for _, side := range []string{"the broker", "the producer"} {
		// On a slow machine a payload may not have arrived when its connection is cut.
		bustest.Until(t, "a refusal after a kill on the side of "+side, func() bool {
			before := count("refused payload from")
			near := tunnels.startNear(broker.Address, "broker")
			far := tunnels.startFar(near)
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
			bustest.Until(t, "the dispatch of the payload after it", func() bool {
				return count("new message dispatched on topic after\n") == attempts
			})
			return count("refused payload from") > before
		})
	}
	broker.Accept(bustest.Payload("t", "4"), 1)
	if messages := broker.stopAndReceive(); !slices.Equal(messages, []string{"4"}) {
		t.Errorf("the messages in the log are %q, want 4", messages)
	}
}

// A producer without the right certificate can't send to the broker. The producer's tunnel does not
// send to a broker without the right certificate.
func TestTunnelStrangers(t *testing.T) {
	tunnels := newTunnels(t, "broker", "producer", "stranger")
	broker := startBroker(t, "-interval", "0")
	near := tunnels.startNear(broker.Address, "broker")
	produce := func(address, text string) (status int) {
		t.Helper()
		status, _, _ = finish(t, producerFor(address, nil, "-message", text))
		return status
	}
	certificate := regexp.MustCompile(`(?m)^(cert|key) = .*\n`)
	stranger := tunnels.configure(tunnels.producerSide, near.address, "stranger", "broker")
	anonymous := certificate.ReplaceAllString(stranger, "")
	for name, address := range map[string]string{
		"without a tunnel":         near.address,
		"with another certificate": tunnels.start(stranger).address,
		"without a certificate":    tunnels.start(anonymous).address,
	} {
		if status := produce(address, name); status == 0 {
			t.Errorf("a producer %s ended with status 0", name)
		}
	}
	if status := produce(tunnels.startFar(near).address, "right"); status != 0 {
		t.Errorf("the producer with the right certificate ended with status %d", status)
	}

	strange := startBroker(t, "-interval", "0")
	far := tunnels.startFar(tunnels.startNear(strange.Address, "stranger"))
	if status := produce(far.address, "to a stranger"); status == 0 {
		t.Error("a producer of a message for a broker with another certificate ended with status 0")
	}
	if messages := strange.stopAndReceive(); len(messages) > 0 {
		t.Errorf("the broker with another certificate received %q", messages)
	}
	if messages := broker.stopAndReceive(); !slices.Equal(messages, []string{"right"}) {
		t.Errorf("the messages in the log are %q, want right", messages)
	}
}

// A broker that listens beyond this machine logs a warning that anybody can send messages. One that
// listens on localhost does not.
func TestListensBeyond(t *testing.T) {
	const line = "Broker: anybody who reaches this port can send messages: " +
		"there is no authentication"
	local := startBroker(t, "-phost", "localhost")
	local.stop()
	if strings.Contains(local.Log.String(), line) {
		t.Errorf("on localhost the log has the warning:\n%s", local.Log)
	}
	// In a network namespace of its own, nobody can reach the broker.
	unshare := tool(t, "unshare")
	if output, err := exec.Command(unshare, "-rn", "true").CombinedOutput(); err != nil {
		t.Skipf("unshare can't make a network namespace: %v: %s", err, output)
	}
	for _, host := range []string{"0.0.0.0", "::"} {
		broker := startCommand(t, exec.Command(unshare, "-rn",
			filepath.Join(binaries, "broker"), "-phost", host, "-pport", "0"))
		broker.Expect(line)
		broker.stop()
	}
}
