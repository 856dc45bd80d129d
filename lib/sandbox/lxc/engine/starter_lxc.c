//go:build linux && cgo && lxc

// The starter is a copy of an engine's process from before Go ran in it: small,
// and with one thread. It starts containers and waits for their end. Go's
// process would have to copy its page tables for each of LXC's forks, and its
// pages afterwards; and LXC's monitor stays in the foreground, and so can be
// waited for, only of who has no other threads.
//
// The engine sends the length of a text, and the text: words that each end with
// a zero. They are the container's name, LXC's folder, keys with their values,
// an empty word, and PID 1 with its arguments. The first answer is the process
// id of LXC's monitor, or -errno; after that id the second one is the monitor's
// exit status, when nothing of the container is left. In between a length of 0,
// or the engine's end, kills.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lxc/lxccontainer.h>

#include "starter_lxc.h"

int starter_socket = -1;

static char *word(char **text)
{
	char *w = *text;
	*text += strlen(w) + 1;
	return w;
}

// hold is LXC's monitor of one container.
static int hold(char *text)
{
	char *name, *key, *args[8];
	int n = 0;
	struct lxc_container *c;

	setsid();
	name = word(&text);
	c = lxc_container_new(name, word(&text));
	if (!c)
		return STARTER_FAILED;
	while (*(key = word(&text)))
		if (!c->set_config_item(c, key, word(&text)))
			return STARTER_REFUSED;
	while (*text && n < 7)
		args[n++] = word(&text);
	args[n] = NULL;
	c->want_daemonize(c, false);
	return c->start(c, 0, args) ? 0 : STARTER_FAILED;
}

static bool get(int socket, void *to, size_t n)
{
	return recv(socket, to, n, MSG_WAITALL) == (ssize_t)n;
}

static bool put(int socket, int32_t answer)
{
	return send(socket, &answer, sizeof answer, MSG_NOSIGNAL) == sizeof answer;
}

// end_children kills what a monitor has left that was killed. LXC asks the
// kernel to do so, but only in the middle of a container's start.
static void end_children(void)
{
	int pid;
	FILE *list;

	do {
		list = fopen("/proc/thread-self/children", "re");
		while (list && fscanf(list, "%d", &pid) == 1)
			kill(pid, SIGKILL);
		if (list)
			fclose(list);
	} while (waitpid(-1, NULL, 0) > 0 || errno == EINTR);
}

// wait_for waits until the monitor and all that it has started are gone.
static int wait_for(int socket, pid_t monitor)
{
	int status = 0;
	uint32_t n;
	struct pollfd events[2] = {{.fd = socket, .events = POLLIN}, {.events = POLLIN}};

	events[1].fd = syscall(SYS_pidfd_open, monitor, 0);
	while (poll(events, 2, -1) < 0 && errno == EINTR)
		;
	if (events[0].revents) {
		get(socket, &n, sizeof n);
		kill(monitor, SIGKILL);
	}
	close(events[1].fd);
	waitpid(monitor, &status, 0);
	end_children();
	return WIFEXITED(status) ? WEXITSTATUS(status) : STARTER_FAILED;
}

static void serve(int socket, char *title)
{
	uint32_t n;
	pid_t pid;
	char *text;

	while (get(socket, &n, sizeof n)) {
		if (n == 0) // too late to kill
			continue;
		text = calloc(1, (size_t)n + 2);
		if (!text || !get(socket, text, n))
			return;
		pid = fork();
		if (pid == 0) {
			close(socket);
			strcpy(title, "keeper");
			_exit(hold(text));
		}
		free(text);
		if (!put(socket, pid < 0 ? -errno : pid) && pid < 0)
			return;
		if (pid > 0 && !put(socket, wait_for(socket, pid)))
			return;
	}
}

__attribute__((constructor)) static void fork_starter(int argc, char **argv)
{
	enum { at = 3 };
	int ends[2], null;
	pid_t pid;

	if (argc != 2 || strcmp(argv[1], "engine") != 0)
		return;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return;
	pid = fork();
	if (pid == 0) {
		// What the engine has from the worker must be the engine's alone.
		null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		dup3(ends[1], at, O_CLOEXEC);
		syscall(SYS_close_range, at + 1, ~0U, 0);
		if (geteuid() == 0)
			// Root maps ids itself; with this helper in the PATH LXC would
			// ask it, and it /etc/subuid.
			setenv("PATH", "/nonexistent", 1);
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
		serve(at, strcpy(argv[1], "forker"));
		_exit(0);
	}
	close(ends[1]);
	if (pid > 0)
		starter_socket = ends[0];
}
