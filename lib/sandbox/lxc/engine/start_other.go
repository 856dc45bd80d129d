//go:build !linux || !cgo || !lxc

package engine

import "errors"

// Version is that of liblxc, if this program was built with it.
func Version() string { return "" }

const (
	haveLXC = false
	refused = -1
)

func start(string, string, []item, []string) (monitor int, err error) {
	return 0, errors.New("built without LXC")
}

func awaitEnd() (status int, err error) { return 0, errors.New("built without LXC") }

func misfit(string, string, []item) string { return "" }

func endAll() {}

func endStarter() {}
