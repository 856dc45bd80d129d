package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

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
	if err == nil || err == io.EOF {
		return err
	}
	var source *sourceError
	if errors.As(err, &source) {
		return fmt.Errorf("store/s3: %s %s: reading the source: %w", op, key, source.err)
	}
	return kind(fmt.Errorf("store/s3: %s %s: %w", op, key, translate(err)))
}

// code is the server's name for an error, or "".
func code(err error) string {
	var r minio.ErrorResponse
	errors.As(err, &r)
	return r.Code
}

// status is the HTTP status that came as an error, or 0: no answer came.
func status(err error) int {
	var r minio.ErrorResponse
	errors.As(err, &r)
	return r.StatusCode
}

// full are the codes of servers that have no room.
var full = []string{"QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}

// translate turns the server's errors into the store's.
func translate(err error) error {
	if status(err) == http.StatusInsufficientStorage || slices.Contains(full, code(err)) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	switch code(err) {
	case "KeyTooLongError", "ExistingObjectIsDirectory", "ObjectParentIsFile": // of a gateway to a file system
		return fmt.Errorf("%w: %w", store.ErrBadKey, err)
	}
	if c := code(err); c != "" && status(err) != 0 {
		return fmt.Errorf("%w (%s, status %d)", err, c, status(err))
	}
	return err
}

func kind(err error) error {
	if slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) {
		return err
	}
	switch {
	case errors.Is(err, store.ErrUnknown), errors.Is(err, store.ErrFull):
		return fault.Wrap(fault.Temporary, err)
	case status(err) == http.StatusUnauthorized, status(err) == http.StatusForbidden:
		return fault.Wrap(fault.Denied, err)
	case untrusted(err), plain(err), code(err) == "NoSuchBucket",
		status(err) == http.StatusNotImplemented, status(err) == http.StatusMethodNotAllowed,
		status(err) >= 300 && status(err) < 400, code(err) == "AuthorizationHeaderMalformed":
		return fault.Wrap(fault.Config, err)
	}
	return fault.Wrap(fault.Temporary, err)
}

// absent tells whether err says that there is no such object.
func absent(err error) bool {
	return status(err) == http.StatusNotFound && code(err) != "NoSuchBucket"
}

// refused tells whether err is that of a put whose condition did not hold. A
// missing object has no ETag to match.
func refused(err error) bool {
	return status(err) == http.StatusPreconditionFailed || absent(err)
}

// rejecting are the codes by which a server says that it has not even tried.
var rejecting = []string{"SlowDown", "SlowDownWrite", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "Throttling"}

// notApplied tells whether a put that failed so has certainly changed nothing:
// the server says so, or was not reached.
func notApplied(err error) bool {
	if s := status(err); s != 0 {
		return s < 500 && s != http.StatusRequestTimeout || s == http.StatusNotImplemented ||
			s == http.StatusInsufficientStorage || slices.Contains(rejecting, code(err))
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || untrusted(err) || plain(err)
}

// temporary tells whether a request that failed so may succeed if it is made
// once more.
func temporary(err error) bool {
	if s := status(err); s != 0 {
		return s == http.StatusRequestTimeout || s == http.StatusTooManyRequests ||
			s == http.StatusConflict || // with another request that is under way
			s >= 500 && s != http.StatusNotImplemented && s != http.StatusInsufficientStorage ||
			code(err) == "RequestTimeout"
	}
	return !untrusted(err) && !plain(err)
}

// untrusted tells whether the server's certificate is not accepted.
func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	return errors.As(err, &verify) || errors.As(err, &authority)
}

// plain tells whether the server does not speak TLS although we do.
func plain(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}

// tries is how often a request is made at most.
const tries = 6

// retry makes a request that may be repeated, until it gets an answer or its
// time is over.
func (s *bucket) retry(ctx context.Context, request func() error) error {
	started := time.Now()
	for try := 0; ; try++ {
		err := request()
		if err == nil || slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) ||
			!temporary(err) || !s.pause(ctx, try, started) {
			return err
		}
	}
}

// pause waits before the next try, and tells whether there is to be one.
func (s *bucket) pause(ctx context.Context, try int, started time.Time) bool {
	wait := 50 * time.Millisecond << try
	wait += rand.N(wait)
	if try+1 >= tries || time.Since(started)+wait > s.patience {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}
