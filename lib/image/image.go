// Package image keeps the root file systems of containers in a folder.
//
// An image is a tree, known by the digest of its manifest (see manifest.go),
// and has any number of names. Trees are shared read-only by all containers;
// nothing ever writes to one once it has its digest.
//
//	lock                    held while names and digests change, shared by readers
//	names/NAME              a Record
//	sha256/HEX/rootfs       the tree
//	sha256/HEX/manifest     one line for each of its files
//	sha256/HEX/lock         shared by those who use the tree
//	tmp/RANDOM              an import that is going on; locked by its process
//
// A process may be killed at any time: an import shows only when it is
// complete, and what is left of one is removed by the next that changes the
// store.
//
// The folder is its owner's alone, as a tree may hold programs that change the
// user they run as, which must not be within reach of the machine's users.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// The reasons for which an image cannot be had; test with errors.Is.
var (
	// ErrNotFound: no image has that name.
	ErrNotFound = errors.New("no such image")
	// ErrDamaged: a tree is not what its digest says.
	ErrDamaged = errors.New("damaged")
	// ErrInUse: a container has it.
	ErrInUse = errors.New("in use")
)

// Record says what a name stands for.
type Record struct {
	Digest  string    `json:"digest"`  // "sha256:…" of the manifest
	Size    int64     `json:"size"`    // bytes of files' contents
	Files   int       `json:"files"`   // entries of the manifest
	Created time.Time `json:"created"` // when it got the name
	Source  string    `json:"source"`  // where it came from, for people
	// Env is the environment that the image asks for, as "NAME=value".
	Env []string `json:"env,omitempty"`
}

// Info is a record with its name and what is the case at the moment.
type Info struct {
	Name string `json:"name"`
	Record
	InUse bool `json:"in_use"`
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ValidName tells whether an image may have that name.
func ValidName(name string) bool { return len(name) <= 64 && validName.MatchString(name) }

func checkName(name string) error {
	if !ValidName(name) {
		return fault.Errorf(fault.Usage, "%q is no name for an image: expected 1 to 64 lower-case letters, digits, \".\", \"_\" and \"-\", beginning with a letter or digit", name)
	}
	return nil
}

// Capability is what a worker offers that has the image of that name.
func Capability(name string) string { return ticket.ImageCapability(name) }

// DefaultDir is where images are unless somebody says otherwise:
// /var/lib/distci/images for root, $XDG_STATE_HOME/distci/images for others.
func DefaultDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/distci/images"
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(dir, "distci", "images")
}

// failed ends an exported function: it says what was being done, and gives
// what came from the machine a kind.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("image: %s: %w", what, err)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, os.ErrPermission):
		return fault.Wrap(fault.Denied, err)
	}
	return fault.Wrap(fault.Temporary, err)
}
