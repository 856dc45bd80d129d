package api

import (
	"encoding/json"
	"net/http"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// builds answers below /jobs/ID/builds.
func (s *server) builds(x *exchange, id string, parts []string) error {
	if len(parts) == 0 {
		switch x.Method {
		case http.MethodGet:
			return s.listBuilds(x, id)
		case http.MethodPost:
			return s.trigger(x, id, &build.Cause{Kind: "request"})
		}
		return errMethod
	}
	n, err := number(parts[0])
	if err != nil {
		return err
	}
	what := ""
	if len(parts) > 1 {
		what = parts[1]
	}
	switch {
	case len(parts) == 1 && x.Method == http.MethodDelete:
		if err := s.repo.DeleteBuild(x.Context(), id, n); err != nil {
			return err
		}
		return x.empty()
	case len(parts) == 1 && x.Method == http.MethodGet, len(parts) == 2 && what == "state":
		return s.state(x, id, n, parts[0])
	case what == "artifacts":
		return s.artifacts(x, id, n, parts[2:])
	case len(parts) == 2 && what == "console":
		return s.console(x, id, n)
	case len(parts) == 2 && what == "workspace":
		return s.workspace(x, id, n)
	case len(parts) == 2 && what == "cancel" && x.Method == http.MethodPost:
		return s.cancel(x, id, n)
	case len(parts) == 4 && what == "steps" && parts[3] == "log" && x.Method == http.MethodGet:
		return s.stepLog(x, id, n, parts[2])
	}
	return errMethod
}

func (s *server) listBuilds(x *exchange, id string) error {
	ns, err := s.repo.Builds(x.Context(), id)
	if err != nil {
		return err
	}
	if len(ns) == 0 {
		if _, err := s.repo.Job(x.Context(), id); err != nil {
			return err
		}
	}
	numbers := make([]int64, len(ns))
	for i, n := range ns {
		numbers[i] = int64(n)
	}
	reply := map[string]any{"builds": numbers}
	if len(numbers) > 0 {
		reply["last_build_number"] = numbers[len(numbers)-1]
	}
	return x.reply(http.StatusOK, reply)
}

func (s *server) trigger(x *exchange, id string, cause *build.Cause) error {
	b, err := s.repo.Trigger(x.Context(), id, cause)
	if err != nil {
		return err
	}
	return x.reply(http.StatusCreated, map[string]any{"job_id": id, "build_number": int64(b.Number),
		"state": map[string]string{"status": build.Preparing}})
}

// state answers for a build's record. A number in a reply to GET is a string,
// as the client wrote it.
func (s *server) state(x *exchange, id string, n ticket.Number, written string) error {
	switch x.Method {
	case http.MethodGet:
		b, err := s.repo.Build(x.Context(), id, n)
		if err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"job_id": id, "build_number": written, "state": b.State})
	case http.MethodPut:
		body, err := x.body(maxDocument)
		if err != nil {
			return err
		}
		var st build.State
		if err := json.Unmarshal(body, &st); err != nil {
			return fault.Errorf(fault.Usage, "expected a build's state, a JSON object: %w", err)
		}
		if err := s.repo.PutState(x.Context(), id, n, &st); err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"job_id": id, "build_number": int64(n), "state": st})
	}
	return errMethod
}

func (s *server) cancel(x *exchange, id string, n ticket.Number) error {
	if err := s.repo.Cancel(x.Context(), id, n, "request"); err != nil {
		return err
	}
	return x.reply(http.StatusAccepted, map[string]any{"job_id": id, "build_number": int64(n)})
}

func (s *server) console(x *exchange, id string, n ticket.Number) error {
	switch x.Method {
	case http.MethodGet:
		x.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if x.URL.Query().Get("follow") == "1" {
			return s.repo.Follow(x.Context(), id, n, flusher{x})
		}
		return s.repo.Console(x.Context(), id, n, x)
	case http.MethodPost:
		body, err := x.body(maxConsole)
		if err != nil {
			return err
		}
		if err := s.repo.AppendConsole(x.Context(), id, n, body); err != nil {
			return err
		}
		return x.empty()
	}
	return errMethod
}

func (s *server) stepLog(x *exchange, id string, n ticket.Number, step string) error {
	attempt, err := x.count("attempt")
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return s.repo.StepLog(x.Context(), id, n, step, attempt, x)
}

// flusher sends every piece at once.
type flusher struct{ *exchange }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.exchange.Write(p)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
