//go:build !linux || !cgo || !lxc

package engine

import "errors"

// Version is that of liblxc, if this program was built with it.
func Version() string { return "" }

const haveLXC = false

func start(string, string, []item, []string) (container, error) {
	return nil, errors.New("built without LXC")
}
