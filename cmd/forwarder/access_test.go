//go:build unix

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// authorization returns the configuration of two users: an administrator, and a forwarder
// with permissions.
func authorization(permissions string) string {
	return fmt.Sprintf("authorization { users: [{user: admin, password: admin}, "+
		"{user: forwarder, password: s3cret, permissions: {%s}}] }", permissions)
}

// needed has the permissions that a forwarder needs, and no more.
const needed = `publish: ["mbus.>", "$JS.API.STREAM.INFO.ORDERS", "$JS.API.STREAM.MSG.GET.ORDERS"],
	subscribe: ["_INBOX.>"]`

// A forwarder without a permission reports it, and waits until it has the permission.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ permissions, want string }{
		{`publish: ["$JS.API.>"]`,
			`permissions violation: Permissions Violation for Publish to "mbus.`},
		{`publish: ["mbus.>"]`, `Publish to "$JS.API.STREAM.INFO.ORDERS"`},
		{strings.Replace(needed, "_INBOX.>", "other", 1), `Subscription to "_INBOX`},
	} {
		engine, source := prepareEngine(t, "", authorization(test.permissions)), newSource(t)
		engine.start()
		url := engine.url
		engine.url = strings.Replace(url, "//", "//admin:admin@", 1)
		stream := engine.stream(jetstream.StreamConfig{})
		source.write(100)
		process := engine.forward(source, "-timeout", "5m", // the report must not wait for it
			"-url", strings.Replace(url, "//", "//forwarder:s3cret@", 1))
		process.reports(test.want)
		text, err := os.ReadFile(engine.config)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.Replace(string(text), test.permissions, needed, 1))
		if err := os.WriteFile(engine.config, text, 0o600); err != nil {
			t.Fatal(err)
		}
		engine.process.Signal(syscall.SIGHUP) // reloads the configuration
		await(t, stream, source.count, process)
		process.stop("; retrying", ": back after ")
		compare(t, stream, source.count)
		reported := process.Stderr.String()
		if strings.Contains(reported, "s3cret") || strings.Count(reported, "\n") != 2 {
			t.Errorf("it reported:\n%s", reported)
		}
	}
}

// The forwarder reports a wrong password, without printing it, and tries again.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	engine, source := prepareEngine(t, "", authorization(needed)), newSource(t)
	engine.start()
	url := strings.Replace(engine.url, "//", "//forwarder:wr0ng@", 1)
	process := engine.forward(source, "-url", url)
	process.reports("Authorization Violation; retrying")
	process.stop(engine.url + ": ")
	if reported := process.Stderr.String(); strings.Contains(reported, "wr0ng") {
		t.Errorf("it reported:\n%s", reported)
	}
	creds := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(creds, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	process = engine.forward(source, "-creds", creds)
	process.reports("; retrying")
	process.stop(engine.url + ": ")
	if reported := process.Stderr.String(); strings.Contains(reported, "s3cret") {
		t.Errorf("it reported:\n%s", reported)
	}
}

// -url may name several servers, with and without a scheme, and spaces between them.
func TestServers(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	forwardAll(engine, source, stream,
		"-url", "nats://"+bustest.FreeAddress(t)+", "+strings.TrimPrefix(engine.url, "nats://"))
	compare(t, stream, source.count)
}

// With tls:// the connection is encrypted; -ca names the certificates that it trusts.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key := writeCertificate(t)
	engine := prepareEngine(t, "",
		fmt.Sprintf("tls { cert_file: %q, key_file: %q }", certificate, key))
	engine.start()
	engine.url = strings.Replace(engine.url, "nats://", "tls://", 1)
	jetStream, err := jetstream.New(engine.connect(nats.RootCAs(certificate)))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := jetStream.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "ORDERS", Subjects: []string{"mbus.>"}, AllowAtomicPublish: true})
	if err != nil {
		t.Fatal(err)
	}
	source := newSource(t)
	source.write(100)
	process := engine.forward(source)
	process.reports("certificate signed by unknown authority; retrying")
	process.stop(engine.url)
	forwardAll(engine, source, stream, "-ca", certificate)
	compare(t, stream, source.count)
}

// writeCertificate writes a certificate for 127.0.0.1 and its key, and returns their files.
func writeCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	public, err := x509.CreateCertificate(
		rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write := func(name, kind string, bytes []byte) string {
		path := filepath.Join(directory, name)
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes})
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("certificate", "CERTIFICATE", public), write("key", "PRIVATE KEY", secret)
}

// SIGTERM ends a forwarder that waits for a connection.
func TestTerminateWhileAway(t *testing.T) {
	t.Parallel()
	mute := bustest.Listen(t) // accepts connections, and sends nothing
	for _, address := range []string{bustest.FreeAddress(t), mute.Addr().String()} {
		source := newSource(t)
		process := start(t, exec.Command(forwarder, "-log", source.path,
			"-state", source.path+"_state", "-stream", "ORDERS", "-url", "nats://"+address))
		bustest.Until(t, "a state file", func() bool {
			_, err := os.Stat(source.path + "_state")
			return err == nil
		})
		time.Sleep(100 * time.Millisecond) // the moment: while it connects
		asked := time.Now()
		process.Signal(syscall.SIGTERM)
		<-process.Ended
		status, taken := process.Command.ProcessState.ExitCode(), time.Since(asked)
		if status != 0 || taken > 10*time.Second {
			t.Errorf("status %d after %s; it reported:\n%s", status, taken, process.Stderr)
		}
	}
}
