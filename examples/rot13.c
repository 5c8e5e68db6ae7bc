/* Turns letters by 13 places: plain read and write in C, no network code.
 * Build it with: cc -O2 -Wall -Wextra -o examples/rot13 examples/rot13.c
 * rot13: {listen: 7772, exec: [examples/rot13]} */
#include <signal.h>
#include <unistd.h>

static char turn(char c)
{
	if (c >= 'a' && c <= 'z')
		return 'a' + (c - 'a' + 13) % 26;
	if (c >= 'A' && c <= 'Z')
		return 'A' + (c - 'A' + 13) % 26;
	return c;
}

int main(void)
{
	char buffer[65536];
	ssize_t got, sent, done;

	signal(SIGPIPE, SIG_IGN);	/* a peer that goes is no crash */
	while ((got = read(0, buffer, sizeof buffer)) > 0) {
		for (ssize_t i = 0; i < got; i++)
			buffer[i] = turn(buffer[i]);
		for (done = 0; done < got; done += sent)
			if ((sent = write(1, buffer + done, got - done)) <= 0)
				return 0;
	}
	return 0;
}
