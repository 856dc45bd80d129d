// Package access decides who may do what: roles, principals, and the ways in
// which a request says whose it is.
//
// It knows nothing of routes; package api gives each of its routes the role
// that it needs, and asks in one place. See "Who may do what" in
// distci-frontend(8).
package access

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
)

// Role is what somebody may do.
type Role string

// The roles. Trigger and Worker each include Read, and Admin includes all;
// neither of Trigger and Worker includes the other.
const (
	Read    Role = "read"    // look at everything
	Trigger Role = "trigger" // begin, cancel and retry builds
	Worker  Role = "worker"  // take and complete tickets, store what builds produce
	Admin   Role = "admin"   // everything

	// Public is what a route needs that everybody may use. Nobody has it as a
	// role.
	Public Role = "public"
)

// Roles lists the roles that somebody can have.
func Roles() []Role { return []Role{Read, Trigger, Worker, Admin} }

// ParseRole reads a role. Errors are of kind Usage.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", fault.Errorf(fault.Usage, "role %.100q: expected one of read, trigger, worker, admin", s)
}

// Includes tells whether whoever has r may do what needs the given role. The
// empty role includes nothing and is included in nothing.
func (r Role) Includes(need Role) bool {
	switch need {
	case Public:
		return true
	case Read:
		return r == Read || r == Trigger || r == Worker || r == Admin
	case Trigger, Worker:
		return r == need || r == Admin
	case Admin:
		return r == Admin
	}
	return false
}

// Principal is whoever makes a request.
type Principal struct {
	Name string   // for people and the audit log
	Role Role     // "": may do only what is public
	Jobs []string // patterns of job ids, see [path.Match]; none: all jobs
	Via  string   // how he was recognised: one of the constants
	ID   string   // of the token or the session; "": there is none
}

// The ways to be recognised.
const (
	ViaLocal       = "local"       // reached an address that only this machine has
	ViaToken       = "token"       // a bearer token
	ViaCertificate = "certificate" // a TLS client certificate
	ViaSession     = "session"     // a cookie of somebody who has signed in
	ViaAnonymous   = "anonymous"   // presented nothing
	ViaWebhook     = "webhook"     // signed a delivery
)

// Local is who may do everything because he can reach us at all.
func Local() Principal { return Principal{Name: "local", Role: Admin, Via: ViaLocal} }

// Anonymous is whoever has presented nothing.
func Anonymous(r Role) Principal { return Principal{Name: "anonymous", Role: r, Via: ViaAnonymous} }

// Limited tells whether p has to do with some jobs only.
func (p Principal) Limited() bool { return len(p.Jobs) > 0 }

// Sees tells whether a job is one of those that p has to do with. For others it
// is as if the job were not there. What belongs to no job, job "", is seen by
// those alone who see every job.
func (p Principal) Sees(job string) bool {
	if !p.Limited() {
		return true
	}
	return job != "" && slices.ContainsFunc(p.Jobs, func(pattern string) bool {
		ok, err := path.Match(pattern, job)
		return ok && err == nil
	})
}

// May returns nil if p may do what needs the role, with the given job; job ""
// is for what is about no single job. Errors are of kind Denied.
func (p Principal) May(need Role, job string) error {
	if !p.Role.Includes(need) {
		has := "no role"
		if p.Role != "" {
			has = "the role " + string(p.Role)
		}
		return fault.Errorf(fault.Denied, "this needs the role %s; %s has %s", need, p.Name, has)
	}
	if job != "" && need != Public && !p.Sees(job) {
		return fault.Errorf(fault.Denied, "%s may do this with other jobs only: %s", p.Name, strings.Join(p.Jobs, ", "))
	}
	return nil
}

// CheckPatterns returns an error of kind Usage unless each is a pattern of
// [path.Match] that a job's id can match.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, "job"); err != nil || p == "" || len(p) > 256 || strings.ContainsAny(p, "/, \t\n") {
			return fault.Errorf(fault.Usage, "job pattern %.300q: expected an id in which * and ? and [a-z] stand for others", p)
		}
	}
	return nil
}

type key struct{}

// NewContext returns a context that carries p.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// FromContext returns whose request it is. A context without one is that of
// somebody who may do nothing.
func FromContext(ctx context.Context) Principal {
	p, ok := ctx.Value(key{}).(Principal)
	if !ok {
		return Anonymous("")
	}
	return p
}
