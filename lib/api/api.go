// Package api serves the REST interface: what the 2013 original served, to
// which its clients and workers still speak, and a few things more. See
// distci-frontend(8).
package api

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/workspace"
)

// Options is what New needs besides the repository. The zero value is usable.
type Options struct {
	Log *slog.Logger // a line for each request; nil: none
	// MaxUpload bounds an artefact and a workspace, in bytes; 0:
	// DefaultMaxUpload.
	MaxUpload int64
	// Layers make workspaces out of layers and the other way round; nil: the
	// requests for a workspace are answered with 501.
	Layers *workspace.Layers
	// Temp is the folder for a workspace on its way to a client; "": the
	// system's.
	Temp string
	// Done is closed when the server is to end: logs are no longer followed.
	Done <-chan struct{}
	// Traffic counts the bytes that are served; nil: only for healthz.
	Traffic *Traffic
	// Meter counts requests; nil: nobody does. Metrics serves what it has
	// counted; nil: there is no /metrics.
	Meter   Meter
	Metrics http.Handler
	// Access finds out whose a request is; nil: everybody may do everything.
	Access access.Authenticator
	// SignIn lets people sign in; nil: nobody does. Its sessions are to be in
	// Access, too.
	SignIn *access.OIDC
	// Audit takes a record of every request that changes something, or was
	// refused to; nil: there is no audit log. Name is this server's in it.
	Audit Auditor
	Name  string
	// URL is where people reach the frontends, "https://ci.example.org", for
	// links to them from elsewhere; "": there are none.
	URL string
	// Pages are what people look at, below /ui; nil: there are none.
	Pages Pages
	// Limits bound how many requests one client makes; nil: no bounds. Proxies
	// are believed where a request comes from; nil: nobody is.
	Limits  *Limits
	Proxies *Proxies
	// Patience is how long a client may take for 64 KiB of what it sends, and
	// for a piece of what it gets; 0: DefaultPatience.
	Patience time.Duration
}

// The bounds of what a client may send, in bytes.
const (
	DefaultMaxUpload = 16 << 30
	maxDocument      = 1 << 20  // a configuration, a ticket, a record
	maxConsole       = 16 << 20 // one piece of a log
	maxWebhook       = 25 << 20 // what the sender promises not to pass
)

type server struct {
	repo *repo.Repo
	Options

	sweep struct {
		sync.Mutex
		last time.Time
	}
	readiness readiness
	offers    offers
	summaries summaries
}

// New returns the handler of the interface.
func New(r *repo.Repo, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Traffic == nil {
		o.Traffic = &Traffic{}
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.MaxUpload <= 0 {
		o.MaxUpload = DefaultMaxUpload
	}
	s := &server{repo: r, Options: o}
	// A page of another site must not make its reader's browser act here.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(s.deny))
	if o.SignIn != nil { // a proxy may have another name for us than browsers have
		if err := cross.AddTrustedOrigin(o.SignIn.Sessions.Origin()); err != nil {
			panic(err) // it was checked when the sessions were made
		}
	}
	return observe(o.Log, o.Meter, o.Patience, cross.Handler(http.HandlerFunc(s.serve)))
}

// route is one line of the interface. A part of the pattern in braces is a
// parameter. The role is what a caller needs at least; a route without one is
// nobody's.
type route struct {
	method, pattern string
	role            access.Role
	handle          func(*call) error
}

// alone tells whether the route needs no coordination service.
func (r route) alone() bool {
	switch r.pattern {
	case "", "healthz", "readyz", "openapi.yaml", "metrics", "schema/job.json", "jobs/{job}/config/schema", "whoami", "ui/sign-in", "ui/sign-in/callback", "ui/sign-out", "ui/assets/{name}":
		return true
	case "jobs/{job}/builds/{build}/steps/{step}/log", "jobs/{job}/builds/{build}/logs/{log}":
		return true // if the log is sealed; they look themselves
	}
	return false
}

// original tells whether the route is one of the 2013 original's, whose errors
// are text.
func (r route) original() bool {
	switch r.pattern {
	case "", "jobs", "jobs/{job}", "jobs/{job}/github-webhook", "jobs/{job}/tags", "jobs/{job}/tags/{tag}",
		"jobs/{job}/builds", "jobs/{job}/builds/{build}", "jobs/{job}/builds/{build}/state",
		"jobs/{job}/builds/{build}/console", "jobs/{job}/builds/{build}/workspace", "jobs/{job}/builds/{build}/artifacts",
		"jobs/{job}/builds/{build}/artifacts/{artifact}", "jobs/{job}/builds/{build}/artifacts/{artifact}/{name}",
		"tasks", "tasks/{task}":
		return true
	}
	return false
}

// errUnreachable is said at once: a client that has to wait for it cannot tell
// us from a frontend that is down.
var errUnreachable = fault.Errorf(fault.Temporary, "the coordination service does not answer")

var routes = []route{
	{"GET", "", access.Public, (*call).root},
	{"GET", "healthz", access.Public, (*call).health},
	{"GET", "readyz", access.Public, (*call).ready},
	{"GET", "metrics", access.Read, (*call).metrics},
	{"GET", "schema/job.json", access.Public, (*call).schema},

	{"GET", "openapi.yaml", access.Public, (*call).description},

	{"GET", "whoami", access.Public, (*call).whoami},
	{"GET", "ui/sign-in", access.Public, (*call).signIn},
	{"GET", "ui/sign-in/callback", access.Public, (*call).signedIn},
	{"POST", "ui/sign-out", access.Public, (*call).signOut},
	{"GET", "ui/assets/{name}", access.Public, page(Pages.Asset)},
	{"GET", "ui", access.Read, page(Pages.Jobs)},
	{"GET", "ui/queue", access.Read, page(Pages.Queue)},
	{"GET", "ui/workers", access.Read, page(Pages.Workers)},
	{"GET", "ui/jobs/{job}", access.Read, page(Pages.Job)},
	{"POST", "ui/jobs/{job}/builds", access.Trigger, page(Pages.Trigger)},
	{"GET", "ui/jobs/{job}/builds/{build}", access.Read, page(Pages.Build)},
	{"POST", "ui/jobs/{job}/builds/{build}/cancel", access.Trigger, page(Pages.Cancel)},
	{"POST", "ui/jobs/{job}/builds/{build}/retry", access.Trigger, page(Pages.Retry)},
	{"GET", "ui/jobs/{job}/builds/{build}/logs/{log}", access.Read, page(Pages.Log)},

	{"GET", "jobs", access.Read, (*call).listJobs},
	{"GET", "jobs/{job}", access.Read, (*call).getJob},
	{"PUT", "jobs/{job}", access.Admin, (*call).putJob},
	{"DELETE", "jobs/{job}", access.Admin, (*call).deleteJob},
	{"GET", "jobs/{job}/config/schema", access.Public, (*call).schema},
	{"POST", "jobs/{job}/github-webhook", access.Trigger, (*call).githubWebhook},
	{"GET", "jobs/{job}/badge.svg", access.Read, (*call).badge},
	{"GET", "jobs/{job}/tags", access.Read, (*call).listTags},
	{"GET", "jobs/{job}/tags/{tag}", access.Read, (*call).getTag},
	{"PUT", "jobs/{job}/tags/{tag}", access.Admin, (*call).putTag},
	{"DELETE", "jobs/{job}/tags/{tag}", access.Admin, (*call).deleteTag},

	{"POST", "hooks/{forge}/{job}", access.Public, (*call).hook}, // signed

	{"GET", "jobs/{job}/builds", access.Read, (*call).listBuilds},
	{"POST", "jobs/{job}/builds", access.Trigger, (*call).trigger},
	{"GET", "jobs/{job}/builds/{build}", access.Read, (*call).getBuild},
	{"DELETE", "jobs/{job}/builds/{build}", access.Admin, (*call).deleteBuild},
	{"GET", "jobs/{job}/builds/{build}/state", access.Read, (*call).getBuild},
	{"PUT", "jobs/{job}/builds/{build}/state", access.Worker, (*call).putState},
	{"POST", "jobs/{job}/builds/{build}/cancel", access.Trigger, (*call).cancel},
	{"POST", "jobs/{job}/builds/{build}/retry", access.Trigger, (*call).retry},

	{"GET", "jobs/{job}/builds/{build}/console", access.Read, (*call).getConsole},
	{"POST", "jobs/{job}/builds/{build}/console", access.Worker, (*call).appendConsole},
	{"GET", "jobs/{job}/builds/{build}/events", access.Read, (*call).buildEvents},
	{"GET", "jobs/{job}/builds/{build}/steps/{step}/log", access.Read, (*call).getStepLog},
	{"GET", "jobs/{job}/builds/{build}/logs", access.Read, (*call).listLogs},
	{"GET", "jobs/{job}/builds/{build}/logs/{log}", access.Read, (*call).getLog},

	{"GET", "jobs/{job}/builds/{build}/workspace", access.Read, (*call).getWorkspace},
	{"PUT", "jobs/{job}/builds/{build}/workspace", access.Worker, (*call).putWorkspace},
	{"DELETE", "jobs/{job}/builds/{build}/workspace", access.Worker, (*call).deleteWorkspace},

	{"GET", "jobs/{job}/builds/{build}/artifacts", access.Read, (*call).listArtifacts},
	{"POST", "jobs/{job}/builds/{build}/artifacts", access.Worker, (*call).postArtifact},
	{"GET", "jobs/{job}/builds/{build}/artifacts/{artifact}", access.Read, (*call).getArtifact},
	{"GET", "jobs/{job}/builds/{build}/artifacts/{artifact}/{name}", access.Read, (*call).getArtifact},
	{"PUT", "jobs/{job}/builds/{build}/artifacts/{artifact}", access.Worker, (*call).putArtifact},
	{"DELETE", "jobs/{job}/builds/{build}/artifacts/{artifact}", access.Admin, (*call).deleteArtifact},

	{"GET", "tasks", access.Read, (*call).listTasks},
	{"POST", "tasks", access.Worker, (*call).postTask},
	{"GET", "tasks/{task}", access.Read, (*call).getTask},
	{"PUT", "tasks/{task}", access.Worker, (*call).putTask},
	{"DELETE", "tasks/{task}", access.Worker, (*call).deleteTask},
	{"POST", "tasks/{task}/lease", access.Worker, (*call).leaseTask},

	{"GET", "events", access.Read, (*call).allEvents},
	{"GET", "cctray.xml", access.Read, (*call).cctray},
	{"GET", "members", access.Read, (*call).listMembers},
	{"GET", "queue", access.Read, (*call).showQueue},
}

// match tells whether parts are as the pattern says, and what the parameters
// are.
func (r route) match(parts []string) (map[string]string, bool) {
	want := strings.Split(r.pattern, "/")
	if len(want) != len(parts) {
		return nil, false
	}
	args := map[string]string{}
	for i, w := range want {
		if name, ok := strings.CutPrefix(w, "{"); ok {
			args[strings.TrimSuffix(name, "}")] = parts[i]
		} else if w != parts[i] {
			return nil, false
		}
	}
	return args, true
}

// split splits a path into its parts, each unescaped by itself, so that an
// escaped slash does not make two parts of one. One slash may stand behind.
func split(u *url.URL) ([]string, error) {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	path = strings.TrimSuffix(path, "/")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		var err error
		if parts[i], err = url.PathUnescape(p); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// serve finds the request's route. A path or a method that is not there is
// answered as the original did.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	c := s.newCall(w, r)
	parts, err := split(r.URL)
	if err != nil {
		c.count(&s.Traffic.other)
		c.fail(status(http.StatusBadRequest, "the path is not escaped as it should be"))
		return
	}
	c.problem = parts[0] == "members" || parts[0] == "metrics" || parts[0] == "queue" || parts[0] == "hooks"
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	found := false
	for _, rt := range routes {
		args, ok := rt.match(parts)
		if !ok {
			continue
		}
		found = true
		if rt.method != method {
			continue
		}
		c.problem = !rt.original()
		c.count(s.Traffic.of(rt))
		c.routed(rt)
		err := c.bind(args)
		defer c.audit(rt) // when the outcome is known
		if e := c.authorize(rt); c.signInFirst(rt, e) {
			return
		} else if e != nil {
			err = e // first: what is wrong with a path is not for everybody
		}
		if err == nil {
			err = c.keepSession(rt)
		}
		if err == nil && !rt.alone() && !s.repo.Reachable() {
			err = errUnreachable
		}
		if err == nil {
			err = rt.handle(c)
		}
		c.ended = true
		c.fail(err)
		return
	}
	c.count(&s.Traffic.other)
	if err := c.limit(); err != nil {
		c.fail(err)
		return
	}
	switch {
	case parts[0] == "jobs" || parts[0] == "tasks":
		c.fail(status(http.StatusBadRequest, "there is no "+r.Method+" of this path"))
	case found:
		c.fail(status(http.StatusMethodNotAllowed, "there is no "+r.Method+" of this path"))
	default:
		c.fail(status(http.StatusNotFound, "there is no such path"))
	}
}
