package spine

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/ticket"
)

const examples = "../../examples"

// unit holds the settings of a unit of systemd.
type unit map[string][]string

// readUnit reads a unit and the drop-ins that change it. As with systemd, an
// empty value takes back those before.
func readUnit(t *testing.T, files ...string) unit {
	t.Helper()
	u := unit{}
	for _, file := range files {
		for line := range strings.Lines(readExample(t, file)) {
			line = strings.TrimSpace(line)
			if line == "" || strings.ContainsAny(line[:1], "#;[") {
				continue
			}
			key, value, ok := strings.Cut(line, "=")
			if !ok || strings.HasSuffix(line, `\`) {
				t.Fatalf("%s: %q: the test reads no such line", file, line)
			}
			if value == "" {
				u[key] = nil
			} else {
				u[key] = append(u[key], value)
			}
		}
	}
	return u
}

// one is the value of a key that must have one.
func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	if len(u[key]) != 1 {
		t.Fatalf("%s has the values %q; want one", key, u[key])
	}
	return u[key][0]
}

func readExample(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var setting = regexp.MustCompile(`(?m)^([A-Z_]+)="([^"\\$]*)"$`)

// settings reads distci.env, every line of which means the same to systemd and
// to a shell.
func settings(t *testing.T, name string) map[string]string {
	t.Helper()
	text := readExample(t, name)
	vars := map[string]string{}
	for _, m := range setting.FindAllStringSubmatch(text, -1) {
		vars[m[1]] = m[2]
	}
	if n := len(regexp.MustCompile(`(?m)^[^#\n]`).FindAllString(text, -1)); n != len(vars) || n == 0 {
		t.Fatalf("%s: %d lines, of which %d are settings in quotes", name, n, len(vars))
	}
	return vars
}

// here are the settings of an example for a cluster of this test, on an unused
// port, and with options that come last and count: without containers, and for
// a worker that finds nothing with a short wait.
func (l *lab) here(vars map[string]string) map[string]string {
	return map[string]string{
		"DISTCI_COORD": "local:" + l.path("coord.db"), "DISTCI_STORE": "dir:" + l.store,
		"DISTCI_CLAIM_OPTIONS":    vars["DISTCI_CLAIM_OPTIONS"] + " --sandbox plain --wait 10ms",
		"DISTCI_FRONTEND_OPTIONS": strings.Replace(vars["DISTCI_FRONTEND_OPTIONS"], ":8088", ":0", 1),
	}
}

// exec starts what a unit starts.
func (l *lab) exec(u unit, vars map[string]string) *proc {
	l.t.Helper()
	env := l.env()
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	var args []string
	for _, word := range strings.Fields(u.one(l.t, "ExecStart")) {
		if name, ok := strings.CutPrefix(word, "$"); ok {
			value, ok := vars[name]
			if !ok {
				l.t.Fatalf("ExecStart has $%s, which distci.env does not", name)
			}
			args = append(args, strings.Fields(value)...)
		} else {
			args = append(args, word)
		}
	}
	program, ok := strings.CutPrefix(args[0], "/usr/local/bin/")
	if !ok {
		l.t.Fatalf("%s is not where make install puts programs", args[0])
	}
	return l.startCommand(program, env, filepath.Join(l.bin, program), args[1:]...)
}

// TestUnitsOfServices runs the command lines of the long-lived units: each
// begins its work, and ends with status 0 on systemd's SIGTERM.
func TestUnitsOfServices(t *testing.T) {
	for name, test := range map[string]struct {
		files []string
		ready string
	}{
		"Claim":         {[]string{"systemd/distci-claim.service"}, "taking tickets"},
		"ClaimPlain":    {[]string{"systemd/distci-claim.service", "systemd/distci-claim.service.d/plain.conf"}, "taking tickets"},
		"Frontend":      {[]string{"systemd/distci-frontend.service"}, "listening"},
		"FrontendPlain": {[]string{"systemd/distci-frontend.service", "systemd/distci-frontend.service.d/plain.conf"}, "listening"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			u := readUnit(t, test.files...)
			if plain := strings.HasSuffix(name, "Plain"); plain != slices.Equal(u["User"], []string{"distci"}) {
				t.Errorf("the user is %q", u["User"])
			}
			p := l.exec(u, l.here(settings(t, "systemd/distci.env")))
			l.until("it is ready", func() bool {
				select {
				case <-p.Done:
					t.Fatalf("it has ended with status %d: %s", p.Status(), p.stderr())
				default:
				}
				return strings.Contains(p.stderr(), test.ready)
			})
			if !p.End(syscall.SIGTERM) || p.Status() != 0 {
				t.Errorf("after SIGTERM the status is %d: %s", p.Status(), p.stderr())
			}
		})
	}
}

// TestUnitOfOneStep runs the command line of the unit for machines that exist
// for one step: it ends by itself, with a ticket and without, and in every case
// the unit powers the machine off.
func TestUnitOfOneStep(t *testing.T) {
	l := newLab(t)
	u := readUnit(t, "vm/distci-claim-once.service")
	vars := l.here(settings(t, "systemd/distci.env"))
	for key, want := range map[string]string{"SuccessAction": "poweroff", "FailureAction": "poweroff", "JobTimeoutAction": "poweroff",
		"OnFailure": "poweroff.target", "Restart": "no", "RemainAfterExit": ""} {
		if want == "" && u[key] != nil || want != "" && u.one(t, key) != want {
			t.Errorf("%s=%q", key, u[key])
		}
	}
	if status, err := strconv.Atoi(u.one(t, "SuccessExitStatus")); err != nil || status == 0 {
		t.Errorf("SuccessExitStatus: %v", err)
	} else if p := l.exec(u, vars); p.Status() != status {
		t.Errorf("without a ticket the status is %d, want %d: %s", p.Status(), status, p.stderr())
	}
	l.frontend()
	l.shellJob("one", "true")
	l.trigger("one")
	p := l.exec(u, vars)
	if p.Status() != 0 {
		t.Errorf("with a ticket the status is %d: %s", p.Status(), p.stderr())
	}

	// A machine that is told to go gives its step back at once.
	flag := l.path("begun")
	l.shellJob("two", "test -e "+flag+" || { touch "+flag+"; exec sleep 600; }")
	l.trigger("two")
	l.until("the step runs", func() bool {
		select {
		case <-p.Done:
			p = l.exec(u, vars)
		default:
		}
		_, err := os.Stat(flag)
		return err == nil
	})
	if u.one(t, "KillSignal") != "SIGINT" || !p.End(syscall.SIGINT) {
		t.Errorf("it does not end on SIGINT: %s", p.stderr())
	}
	if p := l.exec(u, vars); p.Status() != 0 {
		t.Errorf("the next machine ends with status %d: %s", p.Status(), p.stderr())
	}
	vars["DISTCI_CLAIM_OPTIONS"] += " --sandbox none"
	if p := l.exec(u, vars); p.Status() != 64 {
		t.Errorf("with wrong options the status is %d: %s", p.Status(), p.stderr())
	}
}

// TestUnitInContainers runs that command line with the sandbox that it names.
func TestUnitInContainers(t *testing.T) {
	l := newContainedLab(t)
	vars := l.here(nil)
	vars["DISTCI_CLAIM_OPTIONS"] = "--wait 10ms --memory 268435456"
	u := readUnit(t, "vm/distci-claim-once.service")
	if p := l.exec(u, vars); p.Status() != 3 {
		t.Errorf("without a ticket the status is %d: %s", p.Status(), p.stderr())
	}
	l.frontend()
	l.job(`{"job_id": "inside", "tasks": [{"type": "execute-shell", "params": {"script": "id -u"}}]}`)
	n := l.trigger("inside")
	for range 3 { // the job's control, its step, and its control again
		if p := l.exec(u, vars); p.Status() != 0 {
			t.Errorf("with a ticket the status is %d: %s", p.Status(), p.stderr())
		}
	}
	if s := l.state("inside", n); s.Result != ticket.Success || !strings.HasSuffix(l.console("inside", n), "\n1000\n") {
		t.Errorf("%+v\n%s", s, l.console("inside", n))
	}
}

// TestUserData has the settings in the example for cloud-init, whose options
// must be the program's, too.
func TestUserData(t *testing.T) {
	l := newLab(t)
	text := readExample(t, "vm/user-data.yaml")
	if !strings.HasPrefix(text, "#cloud-config\n") {
		t.Error("cloud-init knows it by its first line")
	}
	found := regexp.MustCompile(`(?m)^ +(DISTCI_[A-Z_]+)="([^"\\$]*)"$`).FindAllStringSubmatch(text, -1)
	vars := map[string]string{}
	for _, m := range found {
		vars[m[1]] = m[2]
	}
	if vars["DISTCI_COORD"] == "" || vars["DISTCI_STORE"] == "" || vars["DISTCI_CLAIM_OPTIONS"] == "" {
		t.Fatalf("it has the settings %q", vars)
	}
	u := readUnit(t, "vm/distci-claim-once.service")
	for _, file := range []string{u.one(t, "EnvironmentFile"), "distci-claim-once.service"} {
		if !strings.Contains(text, file) {
			t.Errorf("it has no %s", file)
		}
	}
	if p := l.exec(u, l.here(vars)); p.Status() != 3 {
		t.Errorf("the status is %d: %s", p.Status(), p.stderr())
	}
}

// TestCrontab runs the lines of the crontab with the shell that it names, as
// cron would; files elsewhere are moved to the test's folder.
func TestCrontab(t *testing.T) {
	if _, err := exec.LookPath("flock"); err != nil {
		t.Skip("no flock here")
	}
	l := newLab(t)
	l.start("distci-claim").Status() // makes the cluster, and says so
	line := regexp.MustCompile(`^(?:[0-9*]+ ){5}root (.*)$`)
	variable := regexp.MustCompile(`^(SHELL|PATH)=(.*)$`)
	vars := l.here(settings(t, "systemd/distci.env"))
	var env strings.Builder
	for name, value := range vars {
		env.WriteString(name + `="` + value + "\"\n")
	}
	if err := os.WriteFile(l.path("distci.env"), []byte(env.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	shell, commands := "", 0
	for text := range strings.Lines(readExample(t, "cron/distci")) {
		text = strings.TrimSuffix(text, "\n")
		if text == "" || text[0] == '#' {
			continue
		}
		if m := variable.FindStringSubmatch(text); m != nil {
			if m[1] == "SHELL" {
				shell = m[2]
			}
			continue
		}
		m := line.FindStringSubmatch(text)
		if m == nil || strings.Contains(text, "%") { // which cron makes a new line
			t.Fatalf("no line of a crontab in cron.d: %q", text)
		}
		commands++
		command := strings.NewReplacer("/etc/distci/", l.dir+"/", "/run/lock/", l.dir+"/", "/var/log/", l.dir+"/").Replace(m[1])
		p := l.startCommand("cron", l.env(), shell, "-c", command)
		status := p.Status()
		log, err := os.ReadFile(l.path("distci-claim.log"))
		if status != 0 || p.stderr() != "" || len(log) > 0 || err != nil {
			t.Errorf("%s\nended with status %d, and said %s%s (%v)", command, status, p.stderr(), log, err)
		}
	}
	if commands != 4 {
		t.Errorf("%d lines were run", commands)
	}
	// Both looked at the cluster that the other lines use, and found it well.
	text, err := os.ReadFile(l.path("distci-gc.log"))
	if err != nil || !strings.Contains(string(text), "0 jobs, 0 finished builds stay;") || !strings.Contains(string(text), ": 0 faults") {
		t.Errorf("gc and fsck said %q (%v)", text, err)
	}
	for _, lock := range []string{"distci-claim", "distci-nightly"} {
		if _, err := os.Stat(l.path(lock)); err != nil {
			t.Errorf("a line without its lock: %v", err)
		}
	}
}
