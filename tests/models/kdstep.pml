/* A step below the root (docs/protocol.md, rules 1 to 3): two slots whose pushes are named by step and slot, on a
 * network that loses, repeats and reorders; leases, zombies, worker deaths; a coordinator that dies and goes on from
 * any version between its manifest and the newest one (the journal's end).
 *
 * A token stands for the bits of the parameters. P1 every slot is summed exactly once; P2 what is summed was computed
 * on the parameters in force; P3 a step that is computed again gives the same bits. Mutants and options: run.sh.
 * NONDET (bits depend on who computes, or when) shows what rests on equal bits: it passes only with EPOCHCHK, where
 * a push counts in the coordinator's epoch that it was computed in. */
#ifndef NSTEP
#define NSTEP 3
#endif
#ifndef CK
#define CK 2 /* steps divisible by CK, and the last, are checkpointed */
#endif
#ifndef BC
#define BC 1 /* deaths of the coordinator */
#endif
#ifndef BW
#define BW 1 /* deaths of a worker */
#endif
#ifndef BN
#define BN 2 /* messages lost, repeated or reordered */
#endif
#ifndef BR
#define BR 1 /* leases that end while the worker lives */
#endif
#define V 2
#ifdef NO_STEPCHK
#define STEPOK(s) (s <= NSTEP)
#else
#define STEPOK(s) (s == step)
#endif
#ifdef DOUBLEADD
#define SLOTOK(v) (cnt < V)
#else
#define SLOTOK(v) (!have[v])
#endif
#ifdef EPOCHCHK
#define EPOK(e) (e == epoch)
#else
#define EPOK(e) (e <= epoch)
#endif
byte epoch = 1, ck_step = 0;                              /* on disk */
bool up = true, have[V]; byte step = 0, tok = 0, cnt = 0; /* volatile */
byte owner[V];
bool snap = false; byte sn_step;                          /* checkpoint being written */
bool done = false, alive[2];
byte fresh = 0, seen[NSTEP + 1];                          /* bits of each version, as the journal and manifest have them */
byte bC = BC, bW = BW, bN = BN, bR = BR;
chan net = [2] of { byte, byte, byte, byte };             /* epoch, step, slot, token */

inline commit() {
  assert(have[0] && have[1]);                             /* P1 */
#ifdef NONDET
  fresh++; tok = fresh;
#else
  tok = step + 1;
#endif
  step++; have[0] = false; have[1] = false; cnt = 0;
#ifndef NONDET
  assert(seen[step] == 0 || seen[step] == tok);           /* P3 */
#endif
  seen[step] = tok;
  if :: (step % CK == 0 || step == NSTEP) -> snap = true; sn_step = step :: else fi }
active proctype Coord() {
  byte e, s, v, p;
  do
  :: done -> break
  :: atomic { up && !done && step < NSTEP && len(net) > 0 ->
       if :: net?e, s, v, p
          :: bN > 0 -> bN--; net?<e, s, v, p>                                  /* repeated */
          :: bN > 0 -> bN--; net?e, s, v, p; s = 255                           /* lost */
          :: bN > 0 && len(net) > 1 -> bN--; net?e, s, v, p; net!e, s, v, p; s = 255 /* reordered */
       fi;
       if :: s != 255 && STEPOK(s) && EPOK(e) && SLOTOK(v) ->
               assert(p == tok);                                              /* P2 */
               have[v] = true; cnt++
          :: else fi;
       if :: cnt == V -> commit() :: else fi;
       e = 0; s = 0; v = 0; p = 0 }
  :: atomic { up && !done && step == NSTEP && len(net) > 0 -> net?e, s, v, p; e = 0; s = 0; v = 0; p = 0 }
  od }
active proctype Ckpt() {
  do
  :: done -> break
  :: atomic { up && snap -> ck_step = sn_step; snap = false; if :: ck_step == NSTEP -> done = true :: else fi }
  od }
active proctype Env() {
  do
  :: done -> break
  :: atomic { bC > 0 && up && !done -> bC--; up = false; snap = false;
       do :: step > ck_step -> step-- :: break od;                            /* what survived of the journal */
       tok = 0; cnt = 0; have[0] = false; have[1] = false }
  :: atomic { !up -> epoch++; tok = seen[step]; up = true;
       if :: step == NSTEP -> snap = true; sn_step = step :: else fi }
  :: atomic { bR > 0 && up && alive[0] && alive[1] -> bR--; owner[0] = 1 - owner[0] } /* zombie */
  :: atomic { up && !alive[owner[0]] -> owner[0] = 1 - owner[0] }             /* units of the dead go to others */
  :: atomic { up && !alive[owner[1]] -> owner[1] = 1 - owner[1] }
  od }
proctype Worker(byte id) {
  byte we, ws, wt; bool m0, m1;
  do
  :: done -> break
  :: atomic { !done && bW > 0 && alive[1-id] -> bW--; alive[id] = false; break }
  :: atomic { !done && up -> we = epoch; ws = step; wt = tok; m0 = (owner[0] == id); m1 = (owner[1] == id) };
     if :: m0 -> if :: net!we, ws, 0, wt :: done fi :: else fi;
     if :: m1 -> if :: net!we, ws, 1, wt :: done fi :: else fi
  od }
init { atomic { alive[0] = true; alive[1] = true; owner[0] = 0; owner[1] = 1; run Worker(0); run Worker(1) } }
#ifdef LIVE
ltl live { <> done }
#endif
