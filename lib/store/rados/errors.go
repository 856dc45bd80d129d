//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// The errors of Ceph that mean something here.
const (
	ePermission  = -1
	eNoEntry     = -2
	eAccess      = -13
	eExists      = -17
	eNoSpace     = -28
	eRange       = -34 // AssertVersion: the object's is greater
	eNoData      = -61
	eOverflow    = -75 // AssertVersion: the object's is less
	eUnsupported = -95
	eBlocklisted = -108
	eTimeout     = -110
	eQuota       = -122
	eCanceled    = -125 // cmpomap: not the expected value
)

var errClosed = fault.Errorf(fault.Internal, "the store is closed")

// code is the number of Ceph's error, or 0.
func code(err error) int {
	var e interface{ ErrorCode() int }
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return 0
}

// abandoned is the error of an operation that goes on while its caller does
// not wait any more.
type abandoned struct{ err error }

func (e *abandoned) Error() string { return e.err.Error() }
func (e *abandoned) Unwrap() error { return e.err }

// notRun tells whether err is that of a call that ran no operation.
func notRun(err error) bool {
	var a *abandoned
	return err == errClosed || !errors.As(err, &a) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// uncertain makes the error of an operation that decides ErrUnknown, if it
// does not tell whether it was applied.
func uncertain(err error) error {
	var a *abandoned
	if c := code(err); c == eTimeout || c == eBlocklisted || errors.As(err, &a) {
		return fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	return err
}

// answers are the errors that the caller of a store has to expect. They get no
// kind here: only the caller knows what a missing object means.
var answers = []error{store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrBadKey}

// sourceError is the error of the reader that a caller gave us. It says
// nothing about the store, so it keeps the kind that it has.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// failed names the operation and gives the error its kind.
func failed(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*sourceError); ok {
		return fmt.Errorf("store/rados: %s %s: reading the source: %w", op, key, e.err)
	}
	return kind(fmt.Errorf("store/rados: %s %s: %w", op, key, err))
}

// kind gives an error of an operation its kind.
func kind(err error) error {
	if slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) {
		return err
	}
	switch code(err) {
	case eNoSpace, eQuota:
		return fault.Errorf(fault.Temporary, "%w: %w", store.ErrFull, err)
	case ePermission, eAccess:
		return fault.Wrap(fault.Denied, err)
	case eUnsupported:
		return fault.Errorf(fault.Config, "%w (the class cmpomap is needed: Ceph 16 or later)", err)
	}
	if !errors.Is(err, store.ErrUnknown) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	return fault.Wrap(fault.Temporary, err)
}
