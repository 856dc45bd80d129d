package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// A slot is what no two containers share: a range of ids and a name. It is held
// by a lock on its file, which the kernel drops when the holder is gone. While
// it is held the file says what the container has outside of itself; who takes
// a slot whose file still says something first removes that.

const (
	rangeSize = 1 << 16
	// defaultIDs begins above what systemd-nspawn and useradd give away, and
	// slots ends below what systemd reserves.
	defaultIDs = 0x70000000
	slots      = 4000
)

type slot struct {
	number int
	file   *os.File
	ids    uint32 // first of the range, on the host
	name   string // the container's
}

// holding is what a slot's file says.
type holding struct {
	Name    string   `json:"name"`
	Dir     string   `json:"dir,omitempty"`     // removed with all that is in it
	Cgroups []string `json:"cgroups,omitempty"` // folders
}

// lockDir is the place of the slots' files: one for the machine and user.
func lockDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/run/distci/lxc", nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "distci-"+strconv.Itoa(os.Geteuid()))
	}
	return filepath.Join(dir, "distci-lxc"), nil
}

func containerName(number int) string { return fmt.Sprintf("distci.%d.%d", os.Geteuid(), number) }

// takeSlot takes the first free slot, and cleans up after its last holder.
func takeSlot(first uint32, all []hierarchy) (*slot, error) {
	ranges, err := idRanges(first)
	if err != nil {
		return nil, err
	}
	dir, err := lockDir()
	if err != nil {
		return nil, err
	}
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	for n, ids := range ranges {
		f, err := tryLock(filepath.Join(dir, strconv.Itoa(n)))
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		s := &slot{number: n, file: f, ids: ids, name: containerName(n)}
		if err := s.clean(all); err != nil {
			// What is left may still have processes with these ids.
			f.Close()
			continue
		}
		return s, nil
	}
	return nil, fault.Errorf(fault.Temporary, "all of the %d ranges of ids for containers are in use", len(ranges))
}

// tryLock opens and locks a file, and returns nil if somebody else holds it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fault.Wrap(fault.Config, err)
	}
	return f, nil
}

// note writes down what the container has.
func (s *slot) note(h holding) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	_, err = s.file.WriteAt(b, 0)
	return err
}

// clean removes what the slot's file names, and empties it.
func (s *slot) clean(all []hierarchy) error {
	b, err := io.ReadAll(io.NewSectionReader(s.file, 0, 1<<20))
	if err != nil || len(b) == 0 {
		return err
	}
	var h holding
	if err := json.Unmarshal(b, &h); err != nil {
		h = holding{Name: s.name} // cut short: its writer died
	}
	// How far its starter got is not known.
	h.Cgroups = append(h.Cgroups, findCgroups(h.Name, all)...)
	return s.remove(h)
}

// remove removes what a container had, and empties the slot's file.
func (s *slot) remove(h holding) error {
	if err := removeCgroups(h.Name, h.Cgroups); err != nil {
		return err
	}
	if h.Dir != "" {
		if err := erase(h.Dir); err != nil {
			return err
		}
	}
	return s.file.Truncate(0)
}

// release gives the slot back. Its file stays.
func (s *slot) release() { s.file.Close() }

// Reap cleans up after all holders that are gone, and returns how many had
// left something.
func Reap() (int, error) {
	dir, err := lockDir()
	if err != nil {
		return 0, err
	}
	if err := isPrivate(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		return 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fault.Wrap(fault.Config, err)
	}
	all, err := layout()
	if err != nil {
		return 0, err
	}
	n := 0
	var failed error
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fi, err := e.Info(); err != nil || fi.Size() == 0 {
			continue
		}
		f, err := tryLock(filepath.Join(dir, e.Name()))
		if err != nil || f == nil {
			failed = errors.Join(failed, err)
			continue
		}
		s := &slot{number: number, file: f, name: containerName(number)}
		if err := s.clean(all); err != nil {
			failed = errors.Join(failed, err)
		} else {
			n++
		}
		s.release()
	}
	return n, fault.Wrap(fault.Temporary, failed)
}

// idRanges lists the first ids of the ranges that containers may have.
func idRanges(first uint32) ([]uint32, error) {
	if os.Geteuid() == 0 {
		if first == 0 {
			first = defaultIDs
		}
		var all []uint32
		for n := range uint32(slots) {
			if at := uint64(first) + uint64(n)*rangeSize; at+rangeSize <= 1<<31 {
				all = append(all, uint32(at))
			}
		}
		return all, nil
	}
	uids, err := subIDs("/etc/subuid")
	if err != nil {
		return nil, err
	}
	gids, err := subIDs("/etc/subgid")
	if err != nil {
		return nil, err
	}
	var all []uint32
	for _, at := range uids { // one number serves both, so that one range does
		for _, g := range gids {
			if at == g && at >= first {
				all = append(all, at)
			}
		}
	}
	if len(all) == 0 {
		return nil, fault.Errorf(fault.Config, "/etc/subuid and /etc/subgid give user %d no range of %d ids in common: "+
			"as root, usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST NAME", os.Geteuid(), rangeSize)
	}
	return all, nil
}

// subIDs lists the ranges that a file gives this user.
func subIDs(file string) ([]uint32, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "%w: it must give this user ranges of %d ids (see distci-lxc(1))", err, rangeSize)
	}
	uid := strconv.Itoa(os.Geteuid())
	var all []uint32
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != uid && f[0] != userName() {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for ; count >= rangeSize; count -= rangeSize {
			all = append(all, uint32(first))
			first += rangeSize
		}
	}
	return all, nil
}
