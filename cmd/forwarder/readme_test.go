//go:build unix

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// recipe returns the commands in a section of the forwarder's README.
func recipe(t *testing.T, title string) string {
	t.Helper()
	blocks := bustest.Blocks(t, "README.md", title, "shell")
	if len(blocks) != 1 {
		t.Fatalf("the section %s has %d blocks of commands, want 1", title, len(blocks))
	}
	return blocks[0]
}

// The commands of the README work as printed. They start three brokers and three forwarders,
// gather their streams in one, and read that with the nats command.
func TestReadme(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	_, rest, _ := strings.Cut(bustest.Section(t, "README.md", "The server"), "# nats.conf\n")
	config, _, _ := strings.Cut(rest, "```")
	site.write("nats.conf", strings.ReplaceAll(config, "127.0.0.1:4222", site.engine))

	server := site.start(site.directory, recipe(t, "The server"))
	bustest.Until(t, "a server that listens", func() bool {
		return strings.Contains(server.Stderr.String(), "Server is ready")
	})
	site.run(recipe(t, "The streams"))
	forward := recipe(t, "The forwarders")
	for host := 1; host <= 3; host++ {
		site.addMachine(host, forward)
	}
	consume := recipe(t, "The consumers")
	_, next, _ := strings.Cut(consume, "\n")
	site.run(strings.TrimSuffix(consume, next))
	got := strings.Fields(site.run(next))
	slices.Sort(got)
	if want := []string{"order1", "order2", "order3"}; !slices.Equal(got, want) {
		t.Errorf("the consumer has received %q, want %q", got, want)
	}
	// The largest message of a broker passes, too.
	site.run(`head -c 16777000 /dev/zero | tr '\0' x | build/producer -lines -topic large \
		-port ` + site.port)
	site.run("nats consumer add ALL large --pull --filter 'mbus.*.large' --defaults")
	if size := len(site.run("nats consumer next ALL large --raw")); size < 16_777_000 {
		t.Errorf("the large message has %d bytes", size)
	}
	// Only the forwarder of a machine can publish below its prefix.
	for _, user := range []string{"admin:$ADMIN_PASSWORD", "host2:$HOST2_PASSWORD"} {
		site.run(fmt.Sprintf("nats --server nats://%s@%s pub mbus.host1.orders x 2>&1 | "+
			"grep -i 'permissions violation'", user, site.engine))
	}
}

// site is the directory in which the README's commands run.
type site struct {
	t           *testing.T
	directory   string
	engine      string // its address
	environment []string
	port        string // of the machine that was added last
}

func newSite(t *testing.T) *site {
	t.Helper()
	site := &site{t: t, directory: t.TempDir(), engine: bustest.FreeAddress(t)}
	binaries := filepath.Join(site.directory, "build")
	build := exec.Command("go", "-C", "../..", "build", "-o", binaries+"/",
		"./cmd/broker", "./cmd/producer")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if err := os.Symlink(forwarder, filepath.Join(binaries, "forwarder")); err != nil {
		t.Fatal(err)
	}
	tool := installed(t, "nats", toolModule, func(string) bool { return false })
	server := serverPath(t)
	site.environment = append(os.Environ(),
		"HOME="+site.directory, "XDG_CONFIG_HOME="+site.directory,
		"PATH="+filepath.Dir(tool)+":"+filepath.Dir(server)+":"+os.Getenv("PATH"),
		"NATS_URL=nats://admin:a@"+site.engine, "ADMIN_PASSWORD=a", "HOST1_PASSWORD=b",
		"HOST2_PASSWORD=c", "HOST3_PASSWORD=d")
	return site
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.directory, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// shell returns commands of the README, with the address of the test's engine.
func (s *site) shell(directory, commands string) *exec.Cmd {
	commands = strings.ReplaceAll(commands, "127.0.0.1:4222", s.engine)
	command := exec.Command("sh", "-e", "-c", commands)
	command.Dir, command.Env = directory, s.environment
	return command
}

// run runs commands, and returns their output.
func (s *site) run(commands string) string {
	s.t.Helper()
	output, err := s.shell(s.directory, commands).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", commands, err, output)
	}
	return string(output)
}

// start starts a command, which runs until the test ends.
func (s *site) start(directory, command string) *process {
	s.t.Helper()
	return start(s.t, s.shell(directory, "exec "+command))
}

// addMachine makes a directory, starts a broker and a forwarder in it, and sends a message.
func (s *site) addMachine(host int, forward string) {
	s.t.Helper()
	directory := filepath.Join(s.directory, fmt.Sprint("machine", host))
	if err := os.Mkdir(directory, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink("../build", filepath.Join(directory, "build")); err != nil {
		s.t.Fatal(err)
	}
	s.start(directory, "./build/broker -pport 0 -interval 0 -log mbus.log")
	s.port = ""
	bustest.Until(s.t, "a broker that listens", func() bool {
		text, _ := os.ReadFile(filepath.Join(directory, "mbus.log"))
		match := regexp.MustCompile(`listening on 127.0.0.1:(\d+)`).FindSubmatch(text)
		if match != nil {
			s.port = string(match[1])
		}
		return s.port != ""
	})
	forward = strings.ReplaceAll(forward, "HOST1", fmt.Sprint("HOST", host))
	s.start(directory, strings.ReplaceAll(forward, "host1", fmt.Sprint("host", host)))
	s.run(fmt.Sprintf("./build/producer -port %s -topic orders -message order%d",
		s.port, host))
}
