package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

// mapLines is how many ranges a user namespace can have.
const mapLines = 340

// erase removes a container's folder, whatever is in it.
func erase(dir string) error {
	if os.Geteuid() != 0 {
		// What overlayfs works in is the container's root's, who shut it. It
		// is empty, unless the power went in the middle of a copy.
		_ = unix.Rmdir(filepath.Join(dir, "root", "work", "work"))
	}
	err := workspace.Remove(dir)
	if err == nil || os.Geteuid() == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// There is something of the container's other users.
	if err := eraseInside(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// eraseInside has a process remove the folder that may pass over the modes of
// all that is owned by this user and the containers': in a user namespace of
// these ids, but nowhere else.
func eraseInside(dir string) error {
	// It begins when its ids are mapped, and not if this process dies before.
	cmd := exec.Command("/bin/sh", "-c", `read -r go && exec rm -rf -- "$1"`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
		AmbientCaps: []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER}}
	said := new(limited)
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fault.Errorf(fault.Config, "making a user namespace: %w", err)
	}
	err = mapIDs(cmd.Process.Pid)
	if err == nil {
		_, err = in.Write([]byte("go\n"))
	}
	in.Close()
	if e := cmd.Wait(); err == nil && e != nil {
		err = fmt.Errorf("rm: %w: %s", e, said.text)
	}
	return err
}

// mapIDs gives the user namespace of a process all ranges of ids that this
// user has for containers, and after them the user's own.
func mapIDs(pid int) error {
	ranges, err := idRanges(0)
	if err != nil {
		return err
	}
	ranges = ranges[:min(len(ranges), mapLines-1)]
	for program, own := range map[string]int{"newuidmap": os.Geteuid(), "newgidmap": os.Getegid()} {
		args := []string{strconv.Itoa(pid)}
		add := func(inside, host uint32, n int) {
			args = append(args, strconv.Itoa(int(inside)), strconv.Itoa(int(host)), strconv.Itoa(n))
		}
		for i, first := range ranges {
			add(uint32(i)*rangeSize, first, rangeSize)
		}
		add(uint32(len(ranges))*rangeSize, uint32(own), 1)
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			return fault.Errorf(fault.Config, "%s: %w: %s", program, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// limited keeps the first bytes of what is written to it.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(len(p), 500-len(l.text))]...)
	return len(p), nil
}
