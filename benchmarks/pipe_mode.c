/* A FIFO's two ends without any reader of records, for benchmarks/pipe-mode.

   pipe_mode write FIFO FILE TIMES  writes the file's bytes so many times, as fast as they go in.
   pipe_mode read FIFO              reads to the end; prints seconds, CPU seconds and bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A FIFO of as many bytes as PipeModeDataset asks for, and reads of as many as were fastest. */
enum { PIPE_BYTES = 1 << 20, READ_BYTES = 1 << 18 };

static int failed(const char *what) {
  perror(what);
  return 1;
}

static double seconds(struct timespec time) { return (double)time.tv_sec + (double)time.tv_nsec / 1e9; }

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return seconds(now);
}

static int write_times(const char *fifo, const char *file, long times) {
  int from = open(file, O_RDONLY);
  struct stat status;
  if (from < 0 || fstat(from, &status) < 0) return failed(file);
  size_t size = (size_t)status.st_size;
  char *buffer = malloc(size);
  if (buffer == NULL || read(from, buffer, size) != (ssize_t)size) return failed(file);
  int to = open(fifo, O_WRONLY);
  if (to < 0) return failed(fifo);
  for (; times > 0; times--) {
    for (size_t done = 0; done < size;) {
      ssize_t count = write(to, buffer + done, size - done);
      if (count < 0) return failed(fifo);
      done += (size_t)count;
    }
  }
  return 0;
}

static int read_all(const char *fifo) {
  static char buffer[READ_BYTES];
  int from = open(fifo, O_RDONLY);
  if (from < 0) return failed(fifo);
  fcntl(from, F_SETPIPE_SZ, PIPE_BYTES);
  double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  unsigned long long bytes = 0;
  ssize_t count;
  while ((count = read(from, buffer, sizeof buffer)) > 0) bytes += (unsigned long long)count;
  if (count < 0) return failed(fifo);
  wall = seconds_of(CLOCK_MONOTONIC) - wall;
  printf("%.6f %.6f %llu\n", wall, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu, bytes);
  return 0;
}

int main(int count, char **arguments) {
  if (count == 5 && strcmp(arguments[1], "write") == 0)
    return write_times(arguments[2], arguments[3], atol(arguments[4]));
  if (count == 3 && strcmp(arguments[1], "read") == 0) return read_all(arguments[2]);
  fprintf(stderr, "usage: %s write FIFO FILE TIMES | read FIFO\n", arguments[0]);
  return 2;
}
