// How a monitor ends whose container has not run.
#define STARTER_FAILED 1
#define STARTER_REFUSED 2 // the configuration

extern int starter_socket; // -1 if there is no starter
