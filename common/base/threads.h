// threads.h: how many OpenMP threads work, and whether the user asked to stop.
//
// Results never depend on the number: work is cut by shape alone and reductions run over fixed chunks in order.
#ifndef PDQ_THREADS_H
#define PDQ_THREADS_H

void threads_set(int n); // 0: OMP_NUM_THREADS, else the cores
int threads_count(void);
int thread_number(void); // of the calling thread in its parallel region, 0 .. threads_count()-1: for scratch per thread

void interrupt_catch(void); // SIGINT and SIGTERM set a flag; a second one ends the program at once
int interrupted(void);      // long loops look here, leave a snapshot and return an error
struct error;
int interrupt_check(struct error *err); // -1 with a message where the user asked to stop: for work of which nothing is kept

#endif
