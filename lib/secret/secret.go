// Package secret reads the secrets of jobs, shows them to a step in memory, and
// keeps them out of what it prints.
//
// A job names secrets; the values are files of the worker's operator:
//
//	DIR/JOB_ID/NAME   for the builds of one job
//	DIR/_all/NAME     for whatever this worker runs
//
// So a job gets nothing by naming it: the operator has put it into its folder.
package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// all is the folder of the secrets that are for all jobs.
const all = "_all"

// MaxSize bounds a secret, and MaxTotal those of one step together, in bytes.
const (
	MaxSize  = 64 << 10
	MaxTotal = 1 << 20
)

// Secret is one, as a step gets it.
type Secret struct {
	Name  string
	Value []byte
}

// Vault is an operator's folder of secrets. Nil has none.
type Vault struct {
	dir    string
	Memory *Memory // for steps to see them in
}

// Open opens a folder; without one, "", there are no secrets. Errors are of
// kind Config.
func Open(dir string) (*Vault, error) {
	if dir == "" {
		return &Vault{Memory: NewMemory()}, nil
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = private(dir)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Config, "secrets: %w", err)
	}
	return &Vault{dir: dir, Memory: NewMemory()}, nil
}

// Get reads what the builds of a job get of the names, each once; without a job
// only what is for all. It looks anew each time, so that the operator can add,
// change and take away. Errors are of kind Config, or BadTicket, and name the
// secret and the job.
func (v *Vault) Get(job string, names []string) ([]Secret, error) {
	var secrets []Secret
	total := 0
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		value, err := v.get(job, name)
		if err != nil {
			of := "of a ticket that is no step of a build"
			if job != "" {
				of = fmt.Sprintf("of job %q", job)
			}
			kind := fault.Config
			if fault.Of(err) == fault.BadTicket {
				kind = fault.BadTicket
			}
			return nil, fault.Errorf(kind, "secret %q %s: %w", name, of, err)
		}
		if total += len(value); total > MaxTotal {
			return nil, fault.Errorf(fault.Config, "the secrets of job %q are larger than %d bytes together", job, MaxTotal)
		}
		secrets = append(secrets, Secret{name, value})
	}
	return secrets, nil
}

func (v *Vault) get(job, name string) ([]byte, error) {
	if !safe(name, 64) || name[0] == '-' || name[0] == '.' {
		return nil, fault.Errorf(fault.BadTicket, "expected a name of 1 to 64 letters, digits, \"_\", \".\" and \"-\"")
	}
	if job != "" && (!safe(job, 256) || strings.Contains(job, ".")) {
		return nil, fault.Errorf(fault.BadTicket, "no secret is for a job of that name")
	}
	if v == nil || v.dir == "" {
		return nil, errors.New("this worker has none; its operator can give it some with --secrets")
	}
	places := []string{all + "/" + name}
	if job != "" {
		places = []string{job + "/" + name, all + "/" + name}
	}
	for _, place := range places {
		value, err := v.read(place)
		if !errors.Is(err, fs.ErrNotExist) {
			return value, err
		}
	}
	want := places[0]
	if len(places) > 1 {
		want += " or " + places[1]
	}
	return nil, fmt.Errorf("this worker's operator has not granted it; to do so, put it into the file %s of the folder --secrets", want)
}

// safe tells whether s is a name that leads nowhere else.
func safe(s string, most int) bool {
	other := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	}
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, other)
}

// read reads one file. Its errors name it as the operator knows it below the
// folder, whose own place is nobody else's business.
func (v *Vault) read(place string) ([]byte, error) {
	path := filepath.Join(v.dir, place)
	why := func(err error) error {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("%s: %w", place, err)
	}
	// Whoever may write to the folders may choose what a job gets.
	for _, dir := range []string{v.dir, filepath.Dir(path)} {
		if err := private(dir); err != nil {
			return nil, why(err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not keep us
	if err != nil {
		return nil, why(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, why(err)
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, why(errors.New("not a file"))
	case fi.Mode().Perm()&0o077 != 0:
		return nil, why(fmt.Errorf("others may read or change it, its mode is %#o; expected 0600 or less", fi.Mode().Perm()))
	case !ours(fi):
		return nil, why(errors.New("it belongs to another user than the worker's"))
	}
	value, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	switch {
	case err != nil:
		return nil, why(err)
	case len(value) == 0:
		return nil, why(errors.New("it is empty"))
	case len(value) > MaxSize:
		return nil, why(fmt.Errorf("it is larger than %d bytes", MaxSize))
	}
	return value, nil
}

// private asserts that only the worker's user can change what is in a folder.
func private(dir string) error {
	fi, err := os.Stat(dir)
	var what string
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		what = "not a folder"
	case fi.Mode().Perm()&0o022 != 0:
		what = fmt.Sprintf("others may write to the folder, its mode is %#o; expected 0700", fi.Mode().Perm())
	case !ours(fi):
		what = "the folder belongs to another user than the worker's"
	default:
		return nil
	}
	return &fs.PathError{Op: "check", Path: dir, Err: errors.New(what)}
}

// ours tells whether a file is this user's, or root's, who may do anything.
func ours(fi fs.FileInfo) bool {
	uid := owner(fi)
	return uid == 0 || uid == os.Geteuid()
}
