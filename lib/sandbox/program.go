package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// LookPath finds the program in the PATH of env; if that has none, in the one
// that a shell would use.
func LookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // a program that the working directory happens to hold
		}
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in %s", name, path)
}

// StartFault tells of what kind the error of a program is that could not be
// started.
func StartFault(err error) fault.Kind {
	var path *fs.PathError
	switch {
	case errors.As(err, &path) && path.Op == "chdir":
		return fault.Config
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOEXEC),
		errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return fault.MissingTool
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.EINVAL):
		return fault.Config // arguments or environment that no program can get
	}
	return fault.Temporary
}
