package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// answers are the errors that the caller of a store has to expect. They get no
// kind here: only the caller knows what a missing object means.
var answers = []error{store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrBadKey,
	context.Canceled, context.DeadlineExceeded}

// sourceError is the error of the reader that a caller gave us. It says nothing
// about the store, so it keeps the kind that it has.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// failed names the operation and gives the error its kind.
func failed(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*sourceError); ok {
		return fmt.Errorf("store/dir: %s %s: reading the source: %w", op, key, e.err)
	}
	return kind(fmt.Errorf("store/dir: %s %s: %w", op, key, translate(err)))
}

// translate turns the system's errors into the store's.
func translate(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", store.ErrBadKey, err)
	}
	return err
}

func kind(err error) error {
	if slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(fault.Denied, err)
	case escapes(err):
		return fault.Wrap(fault.Denied, err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOLCK), errors.Is(err, fs.ErrInvalid):
		return fault.Wrap(fault.Config, err)
	}
	return fault.Wrap(fault.Temporary, err)
}

// absent tells whether err is that of a path without an object.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG)
}

// escapes tells whether err is [os.Root]'s refusal to follow a link to the
// outside. It has no exported name; what tells it apart is that it is about a
// path and not the system's.
func escapes(err error) bool {
	var errno syscall.Errno
	var path *fs.PathError
	var link *os.LinkError
	return (errors.As(err, &path) || errors.As(err, &link)) && !errors.As(err, &errno) && !errors.Is(err, fs.ErrClosed)
}
