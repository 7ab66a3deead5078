package broker

import (
	"errors"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestNewErrors(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	_, port, _ := net.SplitHostPort(broker.Address)
	config := DefaultConfig()
	config.ProducerPort = port
	_, err := New(config)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), broker.Address) {
		t.Errorf("a port that is taken: %v", err)
	}
	config.ProducerPort = "99999"
	if _, err := New(config); err == nil {
		t.Error("New does not validate")
	}
}

func TestValidate(t *testing.T) {
	const noPort = ": must be a number from 0 to 65535, 0 for a free port"
	const noSize = ": must be a count of bytes, at least 1"
	for _, test := range []struct {
		set  func(*BrokerConfig)
		want string
	}{
		{func(config *BrokerConfig) {}, ""},
		{func(config *BrokerConfig) { config.ProducerHost = "" },
			`-phost "": must be a host`},
		{func(config *BrokerConfig) { config.ProducerPort = "" }, `-pport ""` + noPort},
		{func(config *BrokerConfig) { config.ProducerPort = "http" }, `-pport "http"` + noPort},
		{func(config *BrokerConfig) { config.ProducerPort = "65536" }, `-pport "65536"` + noPort},
		{func(config *BrokerConfig) { config.ProducerPort = "65535" }, ""},
		{func(config *BrokerConfig) { config.Interval = -1 },
			"-interval -1ns: must be a duration of at least 0, such as 3s"},
		{func(config *BrokerConfig) { config.Interval = 0 }, ""},
		{func(config *BrokerConfig) { config.Timeout = 0 },
			"-timeout 0s: must be a duration above 0, such as 5s"},
		{func(config *BrokerConfig) { config.Timeout = 1 }, ""},
		{func(config *BrokerConfig) { config.MaxPayload = 0 }, "-max-payload 0" + noSize},
		{func(config *BrokerConfig) { config.MaxPayload = 1 }, ""},
		{func(config *BrokerConfig) { config.MaxQueued = 0 }, "-max-queued 0" + noSize},
		{func(config *BrokerConfig) { config.MaxQueued = 1 }, ""},
	} {
		config := DefaultConfig()
		test.set(config)
		got := ""
		if err := config.Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	first, second := DefaultConfig(), DefaultConfig()
	if first == second || !reflect.DeepEqual(first, second) {
		t.Error("the defaults are shared or change")
	}
}
