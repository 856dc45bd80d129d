package web

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// maxForm bounds a form, in bytes.
const maxForm = 1 << 20

// prefix begins the names of the fields that are parameters.
const prefix = "p."

// form reads the fields of a form.
func form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return fault.Errorf(fault.Usage, "the form is too large: at most %d bytes are taken", large.Limit)
	}
	if err != nil {
		return fault.Errorf(fault.Usage, "the form cannot be read: %w", err)
	}
	return nil
}

// Trigger begins a build with what was filled in, and sends the reader to it.
// Every action answers so: what a reload repeats is the page.
func (p *Pages) Trigger(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	if err := form(w, r); err != nil {
		return err
	}
	s := repo.Start{
		Cause:      &build.Cause{Kind: "request", By: access.FromContext(r.Context()).Name},
		Parameters: map[string]string{}, Ref: strings.TrimSpace(r.PostForm.Get("ref")),
	}
	for name, values := range r.PostForm {
		if name, ok := strings.CutPrefix(name, prefix); ok {
			// A form sends the ends of lines as a page of paper has them.
			s.Parameters[name] = strings.ReplaceAll(values[0], "\r\n", "\n")
		}
	}
	b, _, err := p.repo.Begin(r.Context(), q.Job, s)
	if err != nil {
		return err
	}
	q.Build = b.Number
	return p.seeBuild(w, r, q)
}

// Cancel ends a build.
func (p *Pages) Cancel(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	if err := p.repo.Cancel(r.Context(), q.Job, q.Build, access.FromContext(r.Context()).Name); err != nil {
		return err
	}
	return p.seeBuild(w, r, q)
}

// Retry begins a build that goes on where a finished one went wrong; of one that
// did not, it is all run again.
func (p *Pages) Retry(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	again := repo.Again{By: access.FromContext(r.Context()).Name}
	b, err := p.repo.Build(r.Context(), q.Job, q.Build)
	if err != nil {
		return err
	}
	if keys := b.State.Keys(); b.State.Result == ticket.Success && len(keys) > 0 {
		again.From = keys[0]
	}
	b, _, err = p.repo.Retry(r.Context(), q.Job, q.Build, again)
	if err != nil {
		return err
	}
	q.Build = b.Number
	return p.seeBuild(w, r, q)
}

// seeBuild sends the reader to the page of a build.
func (p *Pages) seeBuild(w http.ResponseWriter, r *http.Request, q request) error {
	http.Redirect(w, r, fmt.Sprintf("/ui/jobs/%s/builds/%d", q.Job, q.Build), http.StatusSeeOther)
	return nil
}
