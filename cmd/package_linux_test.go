package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/broker"
	"mbus/internal/shared/bustest"
)

// mustRun runs a program, and returns its standard output and standard error. It fails the test
// unless the program ends with status 0.
func mustRun(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, arguments, err, output)
	}
	return string(output)
}

// setting returns the value of a setting of the unit in the file path. It fails the test unless
// the unit has the setting once. A value on continued lines is returned as one line.
func setting(t *testing.T, path, name string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(text), "\\\n", "")
	found := regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(joined, -1)
	if len(found) != 1 {
		t.Fatalf("%s has the setting %s %d times, want once", path, name, len(found))
	}
	return found[0][1]
}

// systemd finds no error in the units, and rates their exposure as low. Only the path of the
// command is changed for the test.
func TestUnits(t *testing.T) {
	t.Parallel()
	systemd := tool(t, "systemd-analyze")
	for _, unit := range []struct {
		file, instance string
		limit          float64
	}{
		{"mbus-broker.service", "mbus-broker.service", 2.0},
		{"mbus-consumer@.service", "mbus-consumer@orders.service", 2.5},
		{"mbus-forwarder.service", "mbus-forwarder.service", 2.0},
	} {
		text, err := os.ReadFile("../build/package/" + unit.file)
		if err != nil {
			t.Fatal(err)
		}
		built := filepath.Join(binaries, "broker") // verify needs an executable file
		shipped := regexp.MustCompile(`/usr/local/bin/mbus-\w+`)
		copied := shipped.ReplaceAllString(string(text), built)
		directory := t.TempDir()
		err = os.WriteFile(filepath.Join(directory, unit.file), []byte(copied), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(directory, unit.instance)
		// For an unknown setting, verify writes a line but ends with status 0.
		output := mustRun(t, systemd, "verify", "--man=no", path)
		if strings.Contains(output, "mbus-") {
			t.Errorf("%s: systemd-analyze verify reports\n%s", unit.file, output)
		}
		output = mustRun(t, systemd, "security", "--offline=true", "--no-pager", path)
		overall := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
		found := overall.FindStringSubmatch(output)
		if found == nil {
			t.Fatalf("systemd-analyze security reports no exposure level:\n%s", output)
		}
		t.Logf("exposure of %s: %s", unit.instance, found[1])
		if exposure, err := strconv.ParseFloat(found[1], 64); err != nil || exposure > unit.limit {
			t.Errorf("%s: the exposure level is %s, want at most %.1f\n%s",
				unit.file, found[1], unit.limit, output)
		}
	}
}

// The broker's unit allows slightly more memory than the bound for the default flags.
func TestUnitMemory(t *testing.T) {
	t.Parallel()
	allowed := setting(t, "../build/package/mbus-broker.service", "MemoryMax")
	mebibytes, err := strconv.Atoi(strings.TrimSuffix(allowed, "M"))
	if err != nil {
		t.Fatal(err)
	}
	config := broker.DefaultConfig()
	limit := bound(config.MaxQueued, config.MaxPayload) >> 20
	if excess := float64(mebibytes) / float64(limit); excess < 1.05 || excess > 1.2 {
		t.Errorf("MemoryMax is %s, want 1.05 to 1.2 times the bound of %d MiB", allowed, limit)
	}
}

// systemd creates the users and groups that the units name.
func TestUsers(t *testing.T) {
	t.Parallel()
	sysusers := tool(t, "systemd-sysusers")
	file, err := filepath.Abs("../build/package/mbus.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	output := mustRun(t, sysusers, "--dry-run", "--root="+root, file)
	const units = "../build/package/mbus-"
	for _, name := range []string{
		setting(t, units+"broker.service", "User"), setting(t, units+"consumer@.service", "User"),
	} {
		if !strings.Contains(output, "Creating user '"+name+"' ") {
			t.Errorf("systemd-sysusers does not create the user %s:\n%s", name, output)
		}
	}
	if !strings.Contains(setting(t, units+"broker.service", "ExecStartPre"), " -g mbus ") {
		t.Error("the log's directory has another group than mbus")
	}
	for _, name := range []string{
		setting(t, units+"broker.service", "Group"),
		setting(t, units+"consumer@.service", "Group"),
		setting(t, units+"consumer@.service", "SupplementaryGroups"),
	} {
		if !strings.Contains(output, "Creating group '"+name+"' ") {
			t.Errorf("systemd-sysusers does not create the group %s:\n%s", name, output)
		}
	}
}

// rotation copies the shipped logrotate configuration, and returns the path of the copy. The copy
// is for the log in directory, and has no su, because the user mbus need not exist.
func rotation(t *testing.T, shipped, directory string) string {
	t.Helper()
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	const log, user = "/var/lib/mbus/", "\tsu mbus mbus\n"
	if strings.Count(string(text), log) != 1 || strings.Count(string(text), user) != 1 {
		t.Fatalf("%s does not have %q and %q once each", shipped, log, user)
	}
	copied := strings.ReplaceAll(string(text), log, directory+"/")
	path := filepath.Join(t.TempDir(), "mbus.logrotate")
	err = os.WriteFile(path, []byte(strings.ReplaceAll(copied, user, "")), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// logrotate finds no error in the shipped configuration. The configuration overrides each global
// directive that would lose messages.
func TestRotation(t *testing.T) {
	t.Parallel()
	logrotate, directory := tool(t, "logrotate"), t.TempDir()
	log := filepath.Join(directory, "mbus.log")
	global := filepath.Join(directory, "global.conf")
	text := "create\ncompress\ndateext\ncopy\ncopytruncate\nolddir /\nrotate 1\ninclude " +
		rotation(t, "../build/package/mbus.logrotate", directory) + "\n"
	if err := os.WriteFile(global, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	output := mustRun(t, logrotate, "-d", global)
	if strings.Contains(output, "error") ||
		!strings.Contains(output, "considering log "+directory) {
		t.Errorf("logrotate reports\n%s", output)
	}
	for i := range 3 {
		if err := os.WriteFile(log, fmt.Appendln(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
		mustRun(t, logrotate, "-f", "-s", filepath.Join(directory, "state"), global)
	}
	for name, want := range map[string]string{"": "", ".1": "2\n", ".2": "1\n", ".3": "0\n"} {
		got, err := os.ReadFile(log + name)
		if string(got) != want || (err == nil) != (name != "") {
			t.Errorf("mbus.log%s has %q, %v, want %q", name, got, err, want)
		}
	}
}

// installedBroker returns the command of the broker that "make install" has installed, with the
// command line and the mode mask of its unit. It uses a free port, and has its log in directory.
// Its interval is short, so that the test is short.
func installedBroker(t *testing.T, release *release, directory string) *exec.Cmd {
	t.Helper()
	unit := release.path("dest/usr/local/lib/systemd/system/mbus-broker.service")
	local := strings.NewReplacer("/var/lib/mbus", directory, "/run/mbus", directory,
		"$MBUS_FLAGS", "")
	line := strings.Fields(local.Replace(setting(t, unit, "ExecStart")))
	line[0] = release.path("dest" + line[0])
	line = append(line, "-pport", "0", "-interval", "100ms")
	const script = `umask "$0"; exec "$@"`
	mask := setting(t, unit, "UMask")
	return exec.Command("sh", append([]string{"-c", script, mask}, line...)...)
}

// The installed broker runs with the command line of its unit. It loses nothing while logrotate
// rotates its log under load with the shipped configuration.
func TestInstalled(t *testing.T) {
	t.Parallel()
	logrotate := tool(t, "logrotate")
	release, directory := newRelease(t, "broker", "producer", "consumer"), t.TempDir()
	release.mustMake("install")
	log := filepath.Join(directory, "mbus.log")
	b := startLogged(t, installedBroker(t, release, directory), file(log))

	input := &bustest.Endless{}
	command := exec.Command(release.path("dest/usr/local/bin/mbus-producer"),
		"-port", b.port, "-topic", "t", "-lines")
	command.Stdin = input
	producer := bustest.Start(t, command)
	configuration := rotation(t, release.path("dest/etc/logrotate.d/mbus"), directory)
	const rotations = 5
	for range rotations {
		bustest.Until(t, "messages in the log", func() bool {
			return strings.Contains(file(log).String(), "Received new message")
		})
		mustRun(t, logrotate, "-f", "-s", filepath.Join(directory, "state"), configuration)
	}
	input.Stop()
	if status := producer.Wait(); status != 0 {
		t.Errorf("the producer ended with status %d: %s", status, producer.Stderr)
	}
	b.stop()

	var text string
	for i := rotations; i > 0; i-- {
		text += file(fmt.Sprintf("%s.%d", log, i)).String()
	}
	text += file(log).String()
	got, want := bustest.Received(t, text)["t"], bustest.Numbers(1, input.Lines())
	if !slices.Equal(got, want) {
		t.Errorf("the logs have %d messages, want the %d lines in order", len(got), len(want))
	}
}

// With the modes of the unit, members of the group mbus can read the log, but can't write it.
// Other users can't read it.
func TestReaders(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can run programs as other users")
	}
	const mbus, reader, other, send = 61001, 61002, 61003, 61004 // ids that no user has
	unit := "../build/package/mbus-broker.service"
	release := newRelease(t, "broker", "producer", "consumer")
	release.mustMake("install")
	directory := release.path("mbus")
	// The test's temporary directories admit only its own user.
	for path := release.directory; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	prepare := strings.NewReplacer("+", "", "-o mbus", fmt.Sprint("-o ", mbus), "-g mbus",
		fmt.Sprint("-g ", mbus), "/var/lib/mbus", directory)
	line := strings.Fields(prepare.Replace(setting(t, unit, "ExecStartPre")))
	mustRun(t, line[0], line[1:]...)
	asUser := func(command *exec.Cmd, user uint32, groups ...uint32) *exec.Cmd {
		command.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: user, Gid: user, Groups: groups},
		}
		return command
	}
	log := filepath.Join(directory, "mbus.log")
	installed := asUser(installedBroker(t, release, directory), mbus)
	installed.SysProcAttr.Credential.Gid = send
	b := startLogged(t, installed, file(log))
	defer b.stop()
	checkReaders := func(line string) {
		t.Helper()
		bustest.Until(t, line, func() bool { return strings.Contains(file(log).String(), line) })
		status, stdout, _ := finish(t, asUser(exec.Command("cat", log), reader, mbus))
		if status != 0 || !strings.Contains(stdout, line) {
			t.Errorf("a member of the group mbus can't read the log: status %d: %s", status, stdout)
		}
		status, _, _ = finish(t, asUser(exec.Command("cat", log), other))
		if status == 0 {
			t.Error("a user outside the group mbus can read the log")
		}
		status, _, _ = finish(t, asUser(exec.Command("touch", log), reader, mbus))
		if status == 0 {
			t.Error("a member of the group mbus can write the log")
		}
	}
	checkReaders("listening on")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	b.Accept(bustest.Payload("t", "1"), 1)
	checkReaders("Received new message from topic 't': '1'") // in the new file
}
