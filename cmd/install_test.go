//go:build unix

package cmd_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// tool returns the path of a program. It skips the test if the program is not installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // not every user's PATH has this directory
		if _, err := os.Stat(path); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	return path
}

// release is a directory with the files that "make install" needs: the Makefile, build/package,
// and the built commands.
type release struct {
	t         *testing.T
	directory string
}

// newRelease makes a release with these built commands. In its PATH, go and git are programs
// that fail, because "make install" needs neither.
func newRelease(t *testing.T, built ...string) *release {
	t.Helper()
	tool(t, "make")
	release := &release{t: t, directory: t.TempDir()}
	err := os.CopyFS(release.path("build/package"), os.DirFS("../build/package"))
	if err != nil {
		t.Fatal(err)
	}
	release.copy("../Makefile", "Makefile")
	for _, name := range built {
		release.copy(filepath.Join(binaries, name), "build/"+name)
	}
	for _, name := range []string{"go", "git"} {
		release.write("bin/"+name, "#!/bin/sh\necho \"make install runs $0\" >&2\nexit 1\n", 0o700)
	}
	return release
}

// path returns the path of one of the release's files.
func (r *release) path(name string) string {
	return filepath.Join(r.directory, name)
}

// copy copies a file into the release, with the mode of an executable file.
func (r *release) copy(from, to string) {
	r.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(to, string(text), 0o700)
}

// write writes a file of the release, and makes its directory.
func (r *release) write(name, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

// make runs make in the release, with DESTDIR set to the release's directory dest.
func (r *release) make(arguments ...string) (status int, stderr string) {
	r.t.Helper()
	command := exec.Command("make", append(arguments, "DESTDIR="+r.path("dest"))...)
	command.Dir = r.directory
	command.Env = append(os.Environ(), "PATH="+r.path("bin")+":"+os.Getenv("PATH"))
	status, _, stderr = finish(r.t, command)
	return status, stderr
}

// mustMake runs make. It fails the test unless make succeeds and writes nothing to standard
// error.
func (r *release) mustMake(arguments ...string) {
	r.t.Helper()
	if status, stderr := r.make(arguments...); status != 0 || stderr != "" {
		r.t.Fatalf("make %q ended with status %d: %s", arguments, status, stderr)
	}
}

// files returns the modes of the files below DESTDIR, by path.
func (r *release) files() map[string]fs.FileMode {
	r.t.Helper()
	files := make(map[string]fs.FileMode)
	root := r.path("dest")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		files[strings.TrimPrefix(path, root)] = info.Mode()
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// "make install" installs the right files with the right modes. "make uninstall" removes them and
// no other file.
func TestInstall(t *testing.T) {
	release := newRelease(t, "broker", "producer", "consumer")
	release.write("build/forwarder", "", 0o700)
	release.write("dest/usr/local/bin/other", "", 0o600)
	for prefix, systemd := range map[string]string{
		"/usr/local": "/usr/local/lib", "/usr": "/usr/lib", "/opt/mbus-1.0": "/etc",
	} {
		want := map[string]fs.FileMode{
			"/usr/local/bin/other":         0o600,
			prefix + "/bin/mbus-broker":    0o755,
			prefix + "/bin/mbus-producer":  0o755,
			prefix + "/bin/mbus-consumer":  0o755,
			prefix + "/bin/mbus-forwarder": 0o755,

			prefix + "/share/man/man1/mbus-producer.1":  0o644,
			prefix + "/share/man/man1/mbus-consumer.1":  0o644,
			prefix + "/share/man/man8/mbus-broker.8":    0o644,
			prefix + "/share/man/man8/mbus-forwarder.8": 0o644,
		}
		if runtime.GOOS == "linux" {
			want[systemd+"/systemd/system/mbus-broker.service"] = 0o644
			want[systemd+"/systemd/system/mbus-consumer@.service"] = 0o644
			want[systemd+"/systemd/system/mbus-forwarder.service"] = 0o644
			want[systemd+"/sysusers.d/mbus.conf"] = 0o644
			want["/etc/logrotate.d/mbus"] = 0o644
		}
		release.mustMake("install", "PREFIX="+prefix)
		if got := release.files(); !maps.Equal(got, want) {
			t.Errorf("with the prefix %s the installed files are\n%v, want\n%v", prefix, got, want)
		}
		for _, unit := range []string{"broker", "consumer@", "forwarder"} {
			path := release.path("dest" + systemd + "/systemd/system/mbus-" + unit + ".service")
			text, err := os.ReadFile(path)
			line := "\nExecStart=" + prefix + "/bin/mbus-" + strings.TrimSuffix(unit, "@") + " "
			if runtime.GOOS == "linux" && !strings.Contains(string(text), line) {
				t.Errorf("%s has no line %q: %v", path, line, err)
			}
		}
		installed := filepath.Join(release.path("dest"), prefix, "bin/mbus-broker")
		if status, _, stderr := finish(t, exec.Command(installed, "-version")); status != 0 {
			t.Errorf("%s -version ended with status %d: %s", installed, status, stderr)
		}
		release.mustMake("install", "PREFIX="+prefix) // over itself
		release.mustMake("uninstall", "PREFIX="+prefix)
		left := slices.Collect(maps.Keys(release.files()))
		if !slices.Equal(left, []string{"/usr/local/bin/other"}) {
			t.Errorf("with the prefix %s make uninstall leaves %q", prefix, left)
		}
	}
}

// If "make install" can't succeed, it says why in one line and installs nothing.
func TestInstallRefuses(t *testing.T) {
	release := newRelease(t, "broker")
	expect := func(want string, arguments ...string) {
		t.Helper()
		status, stderr := release.make(append(arguments, "install")...)
		line, _, _ := strings.Cut(stderr, "\n")
		if status == 0 || line != "install: "+want {
			t.Errorf("make %q ended with status %d: %s", arguments, status, stderr)
		}
		if _, err := os.Stat(release.path("dest")); err == nil {
			t.Errorf("make %q failed, but installed files", arguments)
		}
	}
	expect("build/producer is missing: run make first")
	for _, prefix := range []string{"", "usr", "/a b", "/a|b", "/a&b"} {
		expect("PREFIX="+prefix+": must be an absolute path of letters, digits and /._+-",
			"PREFIX="+prefix)
	}
}

// The README's commands install mbus and start units that are installed then. The programs that
// need root and systemd are replaced by one that records its call.
func TestReadmeService(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("make install installs units only on Linux")
	}
	release := newRelease(t, "broker", "producer", "consumer")
	release.write("bin/sudo", "#!/bin/sh\nexec \"$@\"\n", 0o700)
	for _, name := range []string{"systemctl", "systemd-sysusers", "usermod"} {
		release.write("bin/"+name, "#!/bin/sh\necho "+name+" \"$@\" >> calls\n", 0o700)
	}
	for _, recipe := range bustest.Blocks(t, "../README.md", "As a service", "shell") {
		command := exec.Command("sh", "-e", "-c", recipe)
		command.Dir = release.directory
		command.Env = append(os.Environ(), "DESTDIR="+release.path("dest"), "USER=operator",
			"PATH="+release.path("bin")+":"+os.Getenv("PATH"))
		if status, _, stderr := finish(t, command); status != 0 || stderr != "" {
			t.Errorf("%s\nended with status %d: %s", recipe, status, stderr)
		}
	}
	want := []string{
		"systemd-sysusers", "systemctl daemon-reload", "systemctl enable --now mbus-broker",
		"usermod -aG mbus operator", "systemctl enable --now mbus-consumer@orders",
	}
	calls := strings.Split(strings.TrimSpace(file(release.path("calls")).String()), "\n")
	for i, call := range calls {
		calls[i] = strings.TrimSpace(call)
	}
	if !slices.Equal(calls, want) {
		t.Errorf("the calls are %q, want %q", calls, want)
	}
	for _, name := range []string{"mbus-broker", "mbus-consumer@"} {
		path := "/usr/local/lib/systemd/system/" + name + ".service"
		if _, installed := release.files()[path]; !installed {
			t.Errorf("%s is not installed", path)
		}
	}
}

// "make install" does not overwrite a logrotate configuration that the operator has changed, and
// "make uninstall" does not remove it.
func TestInstallKeepsRotation(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("make install installs the logrotate configuration only on Linux")
	}
	release := newRelease(t, "broker", "producer", "consumer")
	const name = "dest/etc/logrotate.d/mbus"
	release.write(name, "changed\n", 0o644)
	for _, target := range []string{"install", "uninstall"} {
		status, stderr := release.make(target)
		want := fmt.Sprintf("%s: %s differs from build/package/mbus.logrotate, left as it is\n",
			target, release.path(name))
		text, _ := os.ReadFile(release.path(name))
		if status != 0 || stderr != want || string(text) != "changed\n" {
			t.Errorf("make %s ended with status %d: %sthe configuration has %q",
				target, status, stderr, text)
		}
	}
}
