package engine

import (
	"bufio"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/fault"
)

// defaultUser is who runs programs inside: most images' first ordinary user,
// whether or not theirs has one.
const defaultUser = 1000

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// parseUser reads "", "UID", "UID:GID" or a name of the image.
func parseUser(s, root string) (uid, gid uint32, err error) {
	if s == "" {
		return defaultUser, defaultUser, nil
	}
	u, g, both := strings.Cut(s, ":")
	n, err := strconv.ParseUint(u, 10, 32)
	if err != nil && !both {
		return lookUser(s, root)
	}
	m := n
	if err == nil && both {
		m, err = strconv.ParseUint(g, 10, 32)
	}
	if err != nil || n >= rangeSize-1 || m >= rangeSize-1 {
		return 0, 0, fault.Errorf(fault.Config, "user %q: expected UID, UID:GID below %d, or a name that the image knows", s, rangeSize-1)
	}
	return uint32(n), uint32(m), nil
}

// lookUser finds a name in the image's passwd file, which cannot lead outside
// of the image.
func lookUser(name, root string) (uid, gid uint32, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return 0, 0, fault.Wrap(fault.Config, err)
	}
	defer r.Close()
	f, err := r.Open("etc/passwd")
	if err != nil {
		return 0, 0, fault.Errorf(fault.Config, "user %q: %w", name, err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 4 || fields[0] != name {
			continue
		}
		return parseUserIDs(name, fields[2], fields[3])
	}
	return 0, 0, fault.Errorf(fault.Config, "the image has no user %q", name)
}

func parseUserIDs(name, u, g string) (uid, gid uint32, err error) {
	n, err1 := strconv.ParseUint(u, 10, 32)
	m, err2 := strconv.ParseUint(g, 10, 32)
	if err1 != nil || err2 != nil || n >= rangeSize-1 || m >= rangeSize-1 {
		return 0, 0, fault.Errorf(fault.Config, "user %q: the image gives it the ids %q and %q, which containers do not have", name, u, g)
	}
	return uint32(n), uint32(m), nil
}
