package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"io/fs"
	"time"

	"github.com/distci/distci/lib/fault"
)

// resumes is how often a transfer that got no further is taken up again.
const resumes = 4

// resumer reads an artefact's bytes from an offset on, and takes up a broken
// transfer where it was. It reads at most one byte more than the artefact
// should have.
type resumer struct {
	ctx  context.Context
	src  Source
	a    Artifact
	at   int64
	mode fs.FileMode // of the last Open

	r     io.ReadCloser
	tries int // since the last byte
}

func (s *resumer) Read(p []byte) (int, error) {
	if over := s.a.Size + 1 - s.at; int64(len(p)) > over {
		p = p[:max(0, over)]
	}
	if len(p) == 0 {
		return 0, io.EOF
	}
	for {
		if s.r == nil {
			r, mode, err := s.src.Open(s.ctx, s.a, s.at)
			s.mode = mode
			if err != nil {
				return 0, err
			}
			s.r = r
		}
		n, err := s.r.Read(p)
		s.at += int64(n)
		if n > 0 {
			s.tries = 0
		}
		if err == nil || err == io.EOF || fault.Of(err) != fault.Temporary {
			return n, err
		}
		s.Close()
		if n > 0 {
			return n, nil
		}
		if s.tries++; s.tries == resumes {
			return 0, err
		}
		select {
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		case <-time.After(100 * time.Millisecond << s.tries):
		}
	}
}

// Close may be called at any time; a Read opens the source again.
func (s *resumer) Close() error {
	if s.r == nil {
		return nil
	}
	err := s.r.Close()
	s.r = nil
	return err
}

// whole reads all of an artefact and ends well only if it has its digest.
type whole struct {
	*resumer
	sum hash.Hash
}

func newWhole(ctx context.Context, src Source, a Artifact) *whole {
	return &whole{&resumer{ctx: ctx, src: src, a: a}, sha256.New()}
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.resumer.Read(p)
	w.sum.Write(p[:n])
	if err == io.EOF {
		err = check(w.src, w.a, w.at, w.sum, io.EOF)
	}
	return n, err
}

// check compares what has come of an artefact with what it should be; well is
// what it returns if that is the same.
func check(src Source, a Artifact, size int64, sum hash.Hash, well error) error {
	if got := hex.EncodeToString(sum.Sum(nil)); size != a.Size || got != a.SHA256 {
		return &otherBytes{fault.Errorf(fault.Temporary, "expected %d bytes with SHA-256 %s from %s, found %d with %s",
			a.Size, a.SHA256, src, size, got)}
	}
	return well
}

// otherBytes is the error of a transfer that was not broken, but wrong.
type otherBytes struct{ err error }

func (e *otherBytes) Error() string { return e.err.Error() }
func (e *otherBytes) Unwrap() error { return e.err }
