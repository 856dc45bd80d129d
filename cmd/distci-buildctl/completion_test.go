package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestBashCompletion runs bash's own completion.
func TestBashCompletion(t *testing.T) {
	s := newStage(t, "web", "web-nightly", "lib")
	s.trigger("web")
	s.trigger("web")
	ask := func(line ...string) []string {
		t.Helper()
		// What bash does when somebody presses the tabulator.
		cmd := exec.Command("bash", "--norc", "-c", `source <("$1" completion bash) || exit
			shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _distci_buildctl && ((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"
			complete -p distci-buildctl >/dev/null`, "bash", name)
		cmd.Args = append(append(cmd.Args, name), line...)
		cmd.Env = s.env()
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%q: %v: %s", line, err, &stderr)
		}
		return strings.Fields(string(out))
	}
	for _, c := range []struct {
		line string // the last word is being written
		want []string
	}{
		{"tri", []string{"trigger"}},
		{"trigger w", []string{"web", "web-nightly"}},
		{"trigger --follow l", []string{"lib"}},
		{"trigger --fo", []string{"--follow"}},
		{"show web ", []string{"2", "1"}},
		{"show web 1", []string{"1"}},
		{"show none ", nil},
		{"list ", []string{"lib", "web", "web-nightly"}},
		{"job ", []string{"list", "get", "set", "delete"}},
		{"job get w", []string{"web", "web-nightly"}},
		{"job set w", nil}, // a file
		{"completion ", []string{"bash", "zsh", "fish"}},
		{"trigger --url ", nil},
		{"trigger --store dir:" + t.TempDir() + " w", nil},
		{"queue --j", []string{"--json"}},
		{"nonsense ", nil},
	} {
		if got := ask(strings.Split(c.line, " ")...); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.line, got, c.want)
		}
	}
	all := ask("")
	for _, c := range commands() {
		if !slices.Contains(all, c.name()) {
			t.Errorf("%s is missing in %q", c.name(), all)
		}
	}
}

// TestOtherShells: the scripts are what their shells understand, where they are
// installed.
func TestOtherShells(t *testing.T) {
	s := newStage(t, "web")
	for shell, script := range map[string]string{
		"zsh":  `autoload -Uz compinit && compinit -u -D && source <(distci-buildctl completion zsh) && print -r -- "$_comps[distci-buildctl]"`,
		"fish": `distci-buildctl completion fish | source; complete -C 'distci-buildctl trigger w'`,
	} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("there is no %s here", shell)
			continue
		}
		cmd := exec.Command(shell, "-c", script)
		cmd.Env = append(s.env(), "HOME="+s.dir)
		out, err := cmd.CombinedOutput()
		want := map[string]string{"zsh": "_distci-buildctl", "fish": "web\tjob"}[shell]
		if strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %v, %q, want %q", shell, err, out, want)
		}
	}
}
