package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// hooks measures how long it takes from a signed delivery of a forge to the
// first step's being claimed, and against that from a plain request.
func hooks(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if _, err := b.worker(); err != nil {
		return err
	}
	if err := b.job(c, "noop", ":"); err != nil {
		return err
	}
	port, err := os.ReadFile(filepath.Join(b.dir, "port"))
	if err != nil {
		return err
	}
	url := "http://127.0.0.1:" + strings.TrimSpace(string(port)) + "/hooks/github/noop"
	cmd := exec.Command(program("distci-buildctl"), "hook", "create", "noop", "--forge", "github")
	cmd.Env = b.env()
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("hook create: %w", err)
	}
	secret := strings.TrimSpace(string(out))
	const warm, n = 10, 100
	var delivered, requested []float64
	for i := range 2 * (warm + n) {
		from := time.Now()
		number := ticket.Number(0)
		if i%2 == 0 {
			number, err = deliver(url, secret, i)
		} else {
			number, err = c.Trigger(context.Background(), "noop")
		}
		if err != nil {
			return err
		}
		took, err := firstStep(func() (*build.State, error) { return finish(c, "noop", number) }, from)
		if err != nil {
			return err
		}
		switch {
		case i < 2*warm:
		case i%2 == 0:
			delivered = append(delivered, took)
		default:
			requested = append(requested, took)
		}
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		b.print("webhook to first step claimed, "+q.name, quantile(delivered, q.at), "ms", "a request for a build, "+q.name, quantile(requested, q.at), "", nil)
	}
	return nil
}

// firstStep is when the first step of a build was claimed, in ms.
func firstStep(finished func() (*build.State, error), from time.Time) (float64, error) {
	s, err := finished()
	if err != nil {
		return 0, err
	}
	t := s.Tasks["0"]
	if t == nil || t.Started == nil {
		return 0, fmt.Errorf("the build has no step that was claimed: %+v", s)
	}
	return ms(from, *t.Started), nil
}

// deliver sends a push as GitHub does; no two are the same.
func deliver(url, secret string, i int) (ticket.Number, error) {
	body := fmt.Sprintf(`{"ref": "refs/heads/main", "before": "%040x", "after": "%040x", "repository": {"full_name": "o/r"}, "sender": {"login": "s"},
		"head_commit": {"message": "m", "author": {"name": "a", "email": "a@e"}}, "commits": []}`, 1, i+2)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var reply struct {
		Builds []struct {
			Number int64 `json:"build_number"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || len(reply.Builds) != 1 {
		return 0, fmt.Errorf("%s: %v, %w", resp.Status, reply, err)
	}
	return ticket.Number(reply.Builds[0].Number), nil
}
