package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/webhook"
)

// call is one request on its way to its reply.
type call struct {
	*server
	w http.ResponseWriter
	r *http.Request

	who     access.Principal // whose it is
	from    string           // address that it comes from
	ended   bool             // the handler has returned
	problem bool             // errors are told as RFC 9457 has it; the original's are text

	// The parameters of the path, checked.
	job, tag, step, log, artifact, task, name string
	number                                    string // of the build, as the client wrote it
	build                                     ticket.Number
	forge                                     webhook.Forge
}

var (
	buildNumber = regexp.MustCompile(`^[0-9]{1,16}$`)
	stepChars   = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
)

// isStep tells whether s can be a step's key.
func isStep(s string) bool { return len(s) <= 128 && stepChars.MatchString(s) }

// bind takes the parameters as they are given: nothing is trimmed, folded or
// completed.
func (c *call) bind(args map[string]string) error {
	for name, v := range args {
		ok, want := true, ""
		switch name {
		case "job":
			c.job, ok, want = v, repo.ValidJob(v), "1 to 256 of A-Z a-z 0-9 _ -"
		case "tag":
			c.tag, ok, want = v, repo.ValidTag(v), "1 to 128 of A-Z a-z 0-9 _ . - that do not begin with a dot"
		case "build":
			n, err := strconv.ParseInt(v, 10, 64)
			c.number, c.build, ok, want = v, ticket.Number(n), err == nil && buildNumber.MatchString(v), "a number of at most 16 digits"
		case "step":
			c.step, ok, want = v, isStep(v), "1 to 128 of A-Z a-z 0-9 _ -"
		case "log":
			c.log, ok, want = v, isLog(v), "console, or a step and an attempt, as in the list of logs"
		case "artifact":
			c.artifact, ok, want = v, ticket.ValidID(v), "a lower-case UUID"
		case "task":
			c.task, ok, want = v, ticket.ValidID(v), "a lower-case UUID"
		case "forge":
			_, err := webhook.ParseForge(v)
			c.forge, ok, want = webhook.Forge(v), err == nil, "github, gitlab or gitea"
		case "name": // a name for whoever saves the file
			c.name = v
		}
		if !ok {
			return status(http.StatusBadRequest, fmt.Sprintf("%s %.300q: expected %s", name, v, want))
		}
	}
	return nil
}

const (
	// DefaultPatience is how long a client may take for a piece of what it
	// sends, or of what it gets.
	DefaultPatience = 2 * time.Minute
	piece           = 64 << 10 // bytes
)

// body returns the request's body, which may have max bytes.
func (c *call) body(max int64) io.Reader {
	return &patient{r: http.MaxBytesReader(c.w, c.r.Body, max), rc: http.NewResponseController(c.w), patience: c.Patience}
}

// patient gives each piece of a body its time, so that a large one may take
// long, and a client that has gone to sleep, or sends a byte now and then, does
// not.
type patient struct {
	r        io.Reader
	rc       *http.ResponseController
	patience time.Duration
	left     int // bytes of this piece
}

// deadline sets the connection's; a reply that goes elsewhere has none.
func (p *patient) deadline(t time.Time) error {
	if err := p.rc.SetReadDeadline(t); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func (p *patient) Read(b []byte) (int, error) {
	if p.left <= 0 {
		if err := p.deadline(time.Now().Add(p.patience)); err != nil {
			return 0, err
		}
		p.left = piece
	}
	n, err := p.r.Read(b)
	p.left -= n
	if err != nil { // from here on the connection is only watched
		if e := p.deadline(time.Time{}); e != nil && err == io.EOF {
			err = e
		}
	}
	return n, err
}

// document reads a body that is kept in memory.
func (c *call) document(max int64) ([]byte, error) {
	b, err := io.ReadAll(c.body(max))
	if err != nil {
		return nil, bodyError(err)
	}
	return b, nil
}

// bodyError is what has gone wrong with a body: it was too large, or it did not
// come whole.
func bodyError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return status(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is too large: at most %d bytes are taken", large.Limit))
	}
	return &statusError{http.StatusBadRequest, "the body did not come whole", err}
}

// json sends a reply.
func (c *call) json(code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(code)
	_, err = c.w.Write(b)
	return gone(err)
}

// none sends a reply without a body.
func (c *call) none() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// health tells that the server is there; with ?verbose also what it has carried.
func (c *call) health() error {
	if c.r.URL.Query().Has("verbose") {
		return c.json(http.StatusOK, map[string]any{"status": "ok", "traffic": c.Traffic.Counts()})
	}
	return c.json(http.StatusOK, map[string]string{"status": "ok"})
}
