package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Artifact is a published file.
type Artifact struct {
	ID     string    `json:"artifact_id,omitempty"` // empty in a list, which has it as a key
	Path   []string  `json:"path,omitempty"`        // parts
	Size   int64     `json:"size"`                  // bytes
	SHA256 string    `json:"sha256"`                // hexadecimal
	Time   time.Time `json:"time,omitzero"`         // when it was stored, if that is known
	Step   string    `json:"step,omitempty"`        // that published it; in a list
}

// Artifacts lists what a build has published, by id.
func (c *Client) Artifacts(ctx context.Context, job string, n ticket.Number) (map[string]Artifact, error) {
	var reply struct{ Artifacts map[string]Artifact }
	err := c.json(ctx, &request{method: http.MethodGet, path: buildPath(job, n, "artifacts")}, &reply)
	return reply.Artifacts, err
}

// PutArtifact stores the bytes of r under a new id; size is their number, or
// -1. The digest is the one that the server has computed. It is not repeated:
// a caller that can read its bytes again may do so, what an attempt without
// answer has left is nobody's and will be collected.
func (c *Client) PutArtifact(ctx context.Context, job string, n ticket.Number, r io.Reader, size int64) (Artifact, error) {
	q := &request{
		method: http.MethodPost, path: buildPath(job, n, "artifacts"), stream: r, size: size,
		header: map[string]string{"Content-Type": "application/octet-stream"},
	}
	if size < 0 || size > 1<<20 { // so that a refusal comes before the bytes
		q.header["Expect"] = "100-continue"
	}
	var a Artifact
	err := c.json(ctx, q, &a)
	if err == nil && a.ID == "" {
		err = fault.Errorf(fault.Config, "client: %s: the reply has no artifact_id", q)
	}
	if err == nil && size >= 0 && a.SHA256 != "" && a.Size != size {
		err = fault.Errorf(fault.Temporary, "client: %s: %d bytes were sent and %d stored", q, size, a.Size)
	}
	return a, err
}

// GetArtifact returns the bytes of an artefact from offset on. The reader ends
// with an error if the connection breaks, and the caller closes it.
func (c *Client) GetArtifact(ctx context.Context, job string, n ticket.Number, id string, offset int64) (io.ReadCloser, error) {
	q := &request{method: http.MethodGet, path: buildPath(job, n, "artifacts", id)}
	if offset > 0 {
		q.header = map[string]string{"Range": fmt.Sprintf("bytes=%d-", offset)}
	}
	resp, err := c.open(ctx, q)
	if Status(err) == http.StatusRequestedRangeNotSatisfiable {
		return http.NoBody, nil // offset is the end
	}
	if err != nil {
		return nil, err
	}
	body := &artifactBody{resp.Body, ctx, c, q}
	if offset > 0 && resp.StatusCode != http.StatusPartialContent { // a server without ranges
		if _, err := io.CopyN(io.Discard, body, offset); err != nil && err != io.EOF {
			body.Close()
			return nil, err
		}
	}
	return body, nil
}

// artifactBody gives the errors of a body their kind.
type artifactBody struct {
	io.ReadCloser
	ctx context.Context
	c   *Client
	q   *request
}

func (b *artifactBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.c.network(b.ctx, b.q, err)
	}
	return n, err
}
