package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
)

func (c *call) listArtifacts() error {
	all, err := c.repo.Artifacts(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, struct {
		ID        string                   `json:"job_id"`
		Number    int64                    `json:"build_number"`
		Artifacts map[string]repo.Artifact `json:"artifacts"`
	}{c.job, int64(c.build), all})
}

func (c *call) postArtifact() error { return c.storeArtifact(http.StatusCreated) }
func (c *call) putArtifact() error  { return c.storeArtifact(http.StatusOK) }

// storeArtifact takes the body as an artefact; c.artifact is "" for a new one.
func (c *call) storeArtifact(code int) error {
	body, err := c.upload()
	if err != nil {
		return err
	}
	id, a, err := c.repo.PutArtifact(c.r.Context(), c.job, c.build, c.artifact, body)
	if body.err != nil {
		return bodyError(body.err)
	}
	if err != nil {
		return err
	}
	return c.json(code, struct {
		ID       string `json:"job_id"`
		Number   int64  `json:"build_number"`
		Artifact string `json:"artifact_id"`
		Size     int64  `json:"size"`
		SHA256   string `json:"sha256"`
	}{c.job, int64(c.build), id, a.Size, a.SHA256})
}

// upload is the body, where it may be large. One that says that it is too large
// is refused before it comes, if the client waits for that.
func (c *call) upload() (*upload, error) {
	if c.r.ContentLength > c.MaxUpload {
		return nil, bodyError(&http.MaxBytesError{Limit: c.MaxUpload})
	}
	return &upload{r: c.body(c.MaxUpload)}, nil
}

// upload remembers that it was the client that failed.
type upload struct {
	r   io.Reader
	err error
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
	}
	return n, err
}

func (c *call) getArtifact() error {
	ctx := c.r.Context()
	rd, info, err := c.repo.GetArtifact(ctx, c.job, c.build, c.artifact, 0, 0)
	if err != nil {
		return err
	}
	rd.Close()
	f := &object{ctx: ctx, size: info.Size, open: func(offset int64) (io.ReadCloser, error) {
		rd, now, err := c.repo.GetArtifact(ctx, c.job, c.build, c.artifact, offset, -1)
		if err == nil && now.Version != info.Version {
			rd.Close()
			return nil, fault.Errorf(fault.Temporary, "the artifact was replaced while it was read")
		}
		return rd, err
	}}
	defer f.Close()
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	disposition := "attachment"
	if c.name != "" {
		disposition = mime.FormatMediaType("attachment", map[string]string{"filename": c.name})
	}
	h.Set("Content-Disposition", disposition)
	h.Set("Etag", fmt.Sprintf(`"%x"`, info.Version))
	http.ServeContent(c.w, c.r, "", info.Modified, f)
	return f.err
}

// object is an object of the store as [http.ServeContent] wants it. It is
// opened where it is first read.
type object struct {
	ctx    context.Context
	size   int64
	offset int64
	open   func(offset int64) (io.ReadCloser, error)
	rd     io.ReadCloser
	err    error // of the store
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("a seek to before the beginning")
	}
	if offset != o.offset {
		o.Close()
		o.offset = offset
	}
	return offset, nil
}

func (o *object) Read(p []byte) (n int, err error) {
	if o.rd == nil {
		if o.rd, err = o.open(o.offset); err != nil {
			o.err = err
			return 0, err
		}
	}
	n, err = o.rd.Read(p)
	o.offset += int64(n)
	if err == io.EOF && o.offset < o.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

func (o *object) Close() {
	if o.rd != nil {
		o.rd.Close()
		o.rd = nil
	}
}

func (c *call) deleteArtifact() error {
	if err := c.repo.DeleteArtifact(c.r.Context(), c.job, c.build, c.artifact); err != nil {
		return err
	}
	return c.none()
}
