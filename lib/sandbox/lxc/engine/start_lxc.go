//go:build linux && cgo && lxc

package engine

// #cgo pkg-config: lxc
// #include "starter_lxc.h"
import "C"

import (
	"encoding/binary"
	"io"
	"strings"

	lxc "github.com/lxc/go-lxc"
	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// Version is that of liblxc.
func Version() string { return lxc.Version() }

const (
	haveLXC = true
	refused = C.STARTER_REFUSED
)

var starter = pollable(int(C.starter_socket), "starter")

// start has LXC start a container, with a PID 1, and returns the process that is
// LXC's monitor. When that and the container are gone, awaitEnd returns; endAll
// ends them. See starter_lxc.c.
func start(name, dir string, config []item, args []string) (monitor int, err error) {
	if starter == nil {
		return 0, fault.Errorf(fault.Temporary, "LXC: there is no process to start containers")
	}
	words := []string{name, dir}
	for _, i := range config {
		words = append(words, i.key, i.value)
	}
	words = append(words, "")
	words = append(words, args...)
	for _, w := range words {
		if strings.Contains(w, "\x00") {
			return 0, fault.Errorf(fault.Config, "LXC: a zero in %q", w)
		}
	}
	text := strings.Join(words, "\x00") + "\x00"
	if _, err := starter.Write(append(binary.NativeEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
		return 0, fault.Errorf(fault.Temporary, "LXC: %w", err)
	}
	n, err := answer()
	if err == nil && n < 0 {
		err = unix.Errno(-n)
	}
	if err != nil {
		return 0, fault.Errorf(fault.Temporary, "LXC: %w", err)
	}
	return n, nil
}

// misfit finds the item of a configuration that LXC does not take.
func misfit(name, dir string, config []item) string {
	c, err := lxc.NewContainer(name, dir)
	if err != nil {
		return err.Error()
	}
	defer c.Release()
	for _, i := range config {
		if err := c.SetConfigItem(i.key, i.value); err != nil {
			return i.key + " = " + i.value
		}
	}
	return "which item cannot be told"
}

// awaitEnd returns the exit status of LXC's monitor.
func awaitEnd() (status int, err error) { return answer() }

func endAll() { _, _ = starter.Write(make([]byte, 4)) }

// endStarter ends the starter, which has no container.
func endStarter() {
	starter.Close()
	_, _ = unix.Wait4(-1, nil, 0, nil)
}

func answer() (int, error) {
	var b [4]byte
	_, err := io.ReadFull(starter, b[:])
	return int(int32(binary.NativeEndian.Uint32(b[:]))), err
}
