package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// The manual page's upgrade loses and repeats nothing while a producer sends.
func TestRecipeUpgrade(t *testing.T) {
	t.Parallel()
	recipe := manualDisplays(t, "mbus-broker.8", "Upgrades", 1)[0]
	system := newSystem(t)
	load := system.load()
	system.count() // the broker is up
	kitchen := kitchen{t, system.release.directory}
	kitchen.script("bin/git", `test "$*" = pull`)
	kitchen.script("bin/go", `test "$1" = build`) // the commands are there
	kitchen.script("bin/sudo", `exec "$@"`)
	kitchen.script("bin/systemctl", fmt.Sprintf(`cd '%s'; case "$*" in
		daemon-reload) ;;
		"restart mbus-consumer@* mbus-forwarder*") kill "$(cat worker.pid)" ;;
		"restart mbus-broker") kill "$(cat broker.pid)" ;;
		*) echo "systemctl $*" >&2; exit 1 ;;
	esac`, filepath.Dir(system.log)))
	upgrade := kitchen.cook("set -e\n" + recipe)
	upgrade.Env = append(upgrade.Env, "DESTDIR="+system.release.path("dest"))
	if status, _, stderr := finish(t, upgrade); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	for _, service := range []*service{system.broker, system.worker} {
		bustest.Until(t, "the restart of "+service.path, func() bool {
			return len(service.statuses()) == 1
		})
	}
	system.count()
	system.check(load, "0", "0")
}

// Two brokers of the manual page run beside each other.
func TestRecipeTwoBrokers(t *testing.T) {
	recipe := manualDisplays(t, "mbus-broker.8", "Two brokers on one machine", 2)[0]
	kitchen := newKitchen(t, "1")
	ports := strings.NewReplacer("9990", freePort(t), "9991", freePort(t))
	startGroup(t, kitchen.cook(ports.Replace(recipe)))
	kitchen.awaitText("second.log", "'for the second'")
	kitchen.awaitText("first.log", "listening")
	if strings.Contains(file(kitchen.path("first.log")).String(), "'for the second'") {
		t.Error("the first broker has the message for the second")
	}
	first := kitchen.await("broker", 0)
	second := kitchen.await("broker", first)
	for _, broker := range []int{first, second} {
		syscall.Kill(broker, syscall.SIGTERM)
	}
	for _, log := range []string{"first.log", "second.log"} {
		kitchen.awaitText(log, "Broker: stopped")
	}
}

// The manual page's copy of the unit is one for a second broker: it has no file of the first.
func TestRecipeSecondUnit(t *testing.T) {
	recipe := manualDisplays(t, "mbus-broker.8", "Two brokers on one machine", 2)[1]
	kitchen := newKitchen(t, "1")
	kitchen.script("bin/sudo", `exec "$@"`)
	kitchen.script("bin/systemctl", `echo "$*" >> asked`)
	units, err := filepath.Abs("../build/package")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/systemd/system", "etc/mbus"} {
		if err := os.MkdirAll(kitchen.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	kitchen.succeed(strings.NewReplacer("/usr/local/lib/systemd/system", units,
		"/etc/", kitchen.path("etc")+"/").Replace(recipe))
	kitchen.has("asked", "daemon-reload\nenable --now mbus-second\n")
	kitchen.has("etc/mbus/second.env", "MBUS_FLAGS=-pport 9991\n")
	unit := kitchen.path("etc/systemd/system/mbus-second.service")
	for name, want := range map[string]string{
		"EnvironmentFile": "-/etc/mbus/second.env",
		"ExecStart": "/usr/local/bin/mbus-broker -log /var/lib/mbus/second.log -interval 0 " +
			"-metrics /run/mbus/second.prom $MBUS_FLAGS",
	} {
		if got := strings.ReplaceAll(setting(t, unit, name), "\t", ""); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	changed := strings.NewReplacer("second.log", "mbus.log", "second.env", "broker.env",
		"second.prom", "broker.prom").Replace(bustest.Read(t, unit))
	if changed != bustest.Read(t, units+"/mbus-broker.service") {
		t.Error("the copy differs from the unit in more than its files")
	}
	rotated := bustest.Read(t, "../build/package/mbus.logrotate")
	if !strings.Contains(rotated, "\n/var/lib/mbus/*.log {\n") {
		t.Error("the second log is not rotated")
	}
}

// The manual page's broker writes times in UTC, in any zone.
func TestRecipeUTC(t *testing.T) {
	kitchen := newKitchen(t, freePort(t))
	command := kitchen.cook(example(t, "mbus-broker.8", "Times in UTC"))
	command.Env = append(command.Env, "TZ=Asia/Tokyo")
	begin := time.Now().Truncate(time.Second)
	startGroup(t, command)
	kitchen.awaitText("mbus.log", "listening")
	text := file(kitchen.path("mbus.log")).String()
	got, err := time.Parse("2006/01/02 15:04:05", text[:len("2006/01/02 15:04:05")])
	if err != nil || got.Before(begin) || got.After(time.Now()) {
		t.Errorf("after %s the log begins at %s, %v", begin, got, err)
	}
	syscall.Kill(kitchen.await("broker", 0), syscall.SIGTERM)
}

// The manual page's commands find a message in the log, the reason of a refusal, and how far a
// consumer has come.
func TestRecipeNotArrived(t *testing.T) {
	recipes := manualDisplays(t, "mbus-broker.8", "A message that did not arrive", 3)
	kitchen, broker := newShop(t)
	order(t, broker, "first", "look ma! a new order")
	broker.Refuse("\xa0", "message 1: is a string, must be a map of Topic and Data")
	const line = "Received new message from topic 'orders': 'look ma! a new order'\n"
	if got := kitchen.succeed(recipes[0]); strings.Count(got, "\n") != 1 ||
		!strings.HasSuffix(got, " "+line) {
		t.Errorf("%s\nprinted %s", recipes[0], got)
	}
	bustest.Until(t, "the refusal in the log", func() bool {
		return strings.Contains(broker.Log.String(), "refused payload from 127.0.0.1")
	})
	got := kitchen.succeed(recipes[1])
	for _, want := range []string{"refused payload from 127.0.0.1", "Broker: listening on"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nprinted %s, want %s", recipes[1], got, want)
		}
	}
	kitchen.succeed("mbus-consumer -log mbus.log -state orders.state -count 1 -end")
	got = kitchen.succeed(recipes[2])
	id := regexp.MustCompile(`^\{"id":"([0-9a-f]+)-(\d+)-(\d+)-`).FindStringSubmatch(got)
	if id == nil {
		t.Fatalf("%s\nprinted %s, want the message's id", recipes[2], got)
	}
	// The state is after the first message. Only other lines are between it and the second.
	place := regexp.MustCompile(` offset (\d+) log ` + id[1] + ` file ` + id[2] + ` `)
	found := place.FindStringSubmatch(got)
	if found == nil {
		t.Fatalf("%s\nprinted %s, want a position in file %s", recipes[2], got, id[2])
	}
	position, _ := strconv.Atoi(found[1])
	message, _ := strconv.Atoi(id[3])
	if position == 0 || position > message {
		t.Errorf("the position is %d, want one before the message's, %d", position, message)
	}
}
