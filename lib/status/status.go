// Package status tells a forge what becomes of a commit's build, by the part of
// its API that is for that:
//
//   - GitHub: https://docs.github.com/en/rest/commits/statuses
//   - GitLab: https://docs.gitlab.com/api/commits/#set-commit-pipeline-status
//   - Gitea and Forgejo: POST /repos/{owner}/{repo}/statuses/{sha}, as in their
//     own /api/swagger
//
// Their client libraries are many times the size of these three requests.
package status

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/webhook"
)

// Options of Post.
type Options struct {
	Token string // of the forge
	Agent string // our name and version
	Log   *slog.Logger
	// Transport is how the forge is reached; nil: http.DefaultTransport.
	Transport http.RoundTripper
	// Pause waits before another try; nil: as long as it is told to.
	Pause func(context.Context, time.Duration) error
}

// The times of tries. A try that has no answer by then may have been carried
// out; a status that is told twice is the same one.
const (
	tryTime   = 15 * time.Second
	firstWait = time.Second
	maxAnswer = 64 << 10
)

// Post tells the forge r. A forge that is busy or out of order is asked again,
// later and later, until ctx ends. Errors: of kind Denied, Unavailable,
// BadTicket or Config if the forge will not have it, and Temporary if it does
// not work now. None has the token in it.
func Post(ctx context.Context, r build.Report, o Options) error {
	req, err := newRequest(r, o.Token)
	if err != nil {
		return err
	}
	req.agent = o.Agent
	if o.Pause == nil {
		o.Pause = pause
	}
	client := &http.Client{Transport: o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for this server
	}}
	for wait := firstWait; ; wait *= 2 {
		after, err := req.try(ctx, client)
		if fault.Of(err) != fault.Temporary {
			return err
		}
		next := max(wait, after)
		if end, ok := ctx.Deadline(); ok && time.Until(end) < next+tryTime/5 {
			return err
		}
		o.Log.Warn(err.Error()+", trying again", "in", next)
		if o.Pause(ctx, next) != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// request is what the forge is asked.
type request struct {
	url, agent string
	header     map[string]string
	body       []byte
	forge      webhook.Forge
	state      string // the forge's word
	token      string // to be kept out of messages
	what       string // for messages
}

// The forges' words for ours.
var states = map[webhook.Forge]map[string]string{
	webhook.GitHub: {"running": "pending", "success": "success", "failure": "failure", "error": "error", "canceled": "error"},
	webhook.GitLab: {"running": "running", "success": "success", "failure": "failed", "error": "failed", "canceled": "canceled"},
	webhook.Gitea:  {"running": "pending", "success": "success", "failure": "failure", "error": "error", "canceled": "error"},
}

// newRequest checks what becomes part of an address or a header: a ticket may
// have been written by anybody.
func newRequest(r build.Report, token string) (*request, error) {
	forge, err := webhook.ParseForge(r.Forge)
	if err != nil {
		return nil, fault.Errorf(fault.BadTicket, "status: %v", err)
	}
	base, err := url.Parse(r.URL)
	switch {
	case err != nil || base.User != nil: // it is not shown, as a password may be in it
		return nil, fault.Errorf(fault.BadTicket, "status: url: expected the address of an API, as https://host/api/v1, without a user or a password")
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || strings.ContainsAny(r.URL, "?#"):
		return nil, fault.Errorf(fault.BadTicket, "status: url: expected the address of an API, as https://host/api/v1, found %.100q", clean(r.URL, 100))
	case !webhook.ValidRepository(r.Repository), forge != webhook.GitLab && strings.Count(r.Repository, "/") != 1:
		return nil, fault.Errorf(fault.BadTicket, "status: repository: expected owner/name, found %.100q", r.Repository)
	case !webhook.ValidCommit(r.Commit):
		return nil, fault.Errorf(fault.BadTicket, "status: commit: expected 40 or 64 hex digits, found %.100q", r.Commit)
	case states[forge][r.State] == "":
		return nil, fault.Errorf(fault.BadTicket, "status: state: expected running, success, failure, error or canceled, found %.100q", r.State)
	case token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fault.Errorf(fault.Config, "status: the token is not one: expected visible characters without spaces")
	}
	req := &request{forge: forge, state: states[forge][r.State], token: token,
		what: fmt.Sprintf("status %s of %.12s in %s at %s", r.State, r.Commit, r.Repository, base.Host)}
	path := []string{"repos", r.Repository, "statuses", r.Commit}
	req.header = map[string]string{"Accept": "application/json", "Content-Type": "application/json"}
	switch forge {
	case webhook.GitHub:
		req.header["Authorization"] = "Bearer " + token
		req.header["Accept"] = "application/vnd.github+json"
		req.header["X-GitHub-Api-Version"] = "2022-11-28"
	case webhook.Gitea:
		req.header["Authorization"] = "token " + token
	case webhook.GitLab:
		req.header["PRIVATE-TOKEN"] = token
		path[0], path[1] = "projects", url.PathEscape(r.Repository) // one part of the path
	}
	req.url = strings.TrimSuffix(base.String(), "/") + "/" + strings.Join(path, "/")
	req.body, err = json.Marshal(struct {
		State       string `json:"state"`
		Target      string `json:"target_url,omitempty"`
		Description string `json:"description,omitempty"`
		Context     string `json:"context"`
	}{req.state, r.Target, clean(r.Description, 140), cmp.Or(clean(r.Context, 255), "distci")})
	return req, err
}

// try is one try. After is how long the forge wants to be left alone, if it
// says so.
func (r *request) try(ctx context.Context, client *http.Client) (after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(r.body))
	if err != nil {
		return 0, fault.Errorf(fault.BadTicket, "%s: %w", r.what, err)
	}
	for name, v := range r.header {
		req.Header.Set(name, v)
	}
	req.Header.Set("User-Agent", r.agent)
	resp, err := client.Do(req)
	if err != nil {
		return 0, fault.Errorf(fault.Temporary, "%s: the forge does not answer: %s", r.what, r.mask(err.Error()))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && resp.StatusCode >= 300 {
		body = nil // the number says enough
	}
	return retryAfter(resp.Header), r.judge(resp, body)
}

// judge decides what an answer means.
func (r *request) judge(resp *http.Response, body []byte) error {
	code := resp.StatusCode
	limited := code == http.StatusTooManyRequests ||
		code == http.StatusForbidden && (resp.Header.Get("Retry-After") != "" || resp.Header.Get("X-RateLimit-Remaining") == "0")
	said := r.mask(message(body))
	switch {
	case code >= 200 && code < 300:
		return nil
	case r.forge == webhook.GitLab && code == http.StatusBadRequest && strings.Contains(string(body), "from :"+r.state):
		return nil // it was told before, and the answer got lost
	case limited:
		return fault.Errorf(fault.Temporary, "%s: the forge has had too many requests (%d)%s", r.what, code, said)
	case code >= 500, code == http.StatusRequestTimeout:
		return fault.Errorf(fault.Temporary, "%s: the forge is out of order (%d)%s", r.what, code, said)
	case code >= 300 && code < 400:
		return fault.Errorf(fault.Config, "%s: the forge redirects (%d) to %.200q; the address of its API is another one", r.what, code, r.mask(resp.Header.Get("Location")))
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fault.Errorf(fault.Denied, "%s: the forge refuses the token, or it may not do this (%d)%s", r.what, code, said)
	case code == http.StatusNotFound:
		return fault.Errorf(fault.Unavailable, "%s: the forge has no such repository or commit, or hides it from the token (%d)%s", r.what, code, said)
	}
	return fault.Errorf(fault.BadTicket, "%s: the forge will not have it (%d)%s", r.what, code, said)
}

// mask keeps the token out of a message, should the forge repeat it.
func (r *request) mask(s string) string { return strings.ReplaceAll(s, r.token, "***") }

// message is what an answer says to people, behind a colon; "" if nothing.
func message(body []byte) string {
	var answer struct{ Message, Error any }
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	for _, v := range []any{answer.Message, answer.Error} {
		if s, ok := v.(string); ok && s != "" {
			return ": " + clean(s, 200)
		} else if v != nil && !ok {
			return ": " + clean(fmt.Sprint(v), 200)
		}
	}
	return ""
}

// retryAfter reads when a server wants to be asked again; 0 if it does not say.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if d, err := time.ParseDuration(v + "s"); err == nil && d > 0 {
		return d
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// clean makes a text one line of at most n bytes.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= n {
		return s
	}
	for n -= len("…"); !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + "…"
}
