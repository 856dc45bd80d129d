package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// ErrDamaged: what the store has of an artefact is not what was published.
// Another copy may be well, so it is of kind Temporary.
var ErrDamaged = fault.Errorf(fault.Temporary, "the store's copy is damaged")

// errReplaced: somebody has stored other bytes under the same id.
var errReplaced = fault.Errorf(fault.Temporary, "the artifact was replaced while it was read")

// OpenArtifact reads all of an artefact that is as a says. Its size is compared
// at once, its digest before the last of its bytes are given out: whoever gets
// them all has what was published. Errors, of the reader too: ErrNoArtifact,
// ErrDamaged.
func (r *Repo) OpenArtifact(ctx context.Context, job string, n ticket.Number, id string, a Artifact) (io.ReadCloser, store.Info, error) {
	rd, info, err := r.GetArtifact(ctx, job, n, id, 0, -1)
	if err != nil {
		return nil, info, err
	}
	v := &verifier{rd: rd, sum: sha256.New(), left: a.Size, damaged: func(size int64, digest string) error {
		// Its description is replaced after its bytes.
		if now, err := r.StatArtifact(ctx, job, n, id); err != nil || now.SHA256 != a.SHA256 {
			return errReplaced
		}
		return fault.Errorf(fault.Temporary, "%w: artifact %s of %s #%d has %d bytes with SHA-256 %s, expected %d with %s",
			ErrDamaged, id, job, n, size, digest, a.Size, a.SHA256)
	}, want: a.SHA256}
	if info.Size != a.Size {
		rd.Close()
		return nil, info, v.damaged(info.Size, "unknown")
	}
	return v, info, nil
}

// verifier gives the last bytes only if all of them have the digest.
type verifier struct {
	rd      io.ReadCloser
	sum     hash.Hash
	left    int64
	want    string
	damaged func(size int64, digest string) error
	read    int64
	err     error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.rd.Read(p)
	v.sum.Write(p[:n])
	v.left -= int64(n)
	v.read += int64(n)
	switch {
	case err != nil && err != io.EOF:
		v.err = err
	case v.left > 0 && err != io.EOF:
		return n, nil
	default: // all of it is here, or less than there should be, or more
		digest := hex.EncodeToString(v.sum.Sum(nil))
		if v.err = io.EOF; v.left != 0 || digest != v.want {
			v.err = v.damaged(v.read, digest)
			return 0, v.err
		}
	}
	return n, v.err
}

func (v *verifier) Close() error { return v.rd.Close() }
