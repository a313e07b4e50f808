/* The process that holds a throw-away cluster; throwaway.h tells what it does. */
#ifndef KD_CLI_KEEPER_H
#define KD_CLI_KEEPER_H

#include "throwaway.h"

/* What it tells through the pipe: ports when the coordinator serves, else why not. A byte follows
 * once it has been released by SIGUSR1. */
typedef struct kd_keeper_news {
    int port, http_port; /* 0 = it failed */
    char text[512];
} kd_keeper_news;

/* Becomes it: never returns. news_fd: where kd_keeper_news is written. parent: the process that
 * starts it, with which it goes until it is released. */
void kd_keeper_run(const kd_throwaway *t, int news_fd, pid_t parent) __attribute__((noreturn));

#endif
