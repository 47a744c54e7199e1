/*
 * Lease and fencing: node 0 grants time, nodes 1..2 run only while their lease lasts.
 * Discrete time; the network may drop any heartbeat (partition) and delay it by up to D ticks.
 * A renewal grants the whole lease or less: a node that is not heard has it from when it was heard last.
 * Safety: when node 0 has declared a node lost and lets the survivors go on, that node does not run.
 *   -DNOMARGIN   node 0 waits for the lease only, without the delay of the last renewal: must fail
 */
#define LEASE 4
#define D 1
#ifdef NOMARGIN
#define WAIT (LEASE)
#else
#define WAIT (LEASE + D + 1)
#endif
#define GRANT if :: left[i] > 0 -> left[i] = LEASE :: left[i] > 0 && left[i] < LEASE - 1 -> left[i] = LEASE - 1 :: else -> skip fi
byte left[3];            /* ticks of lease left at the node */
byte since[3];           /* ticks since node 0 last sent a renewal that may have arrived */
bool runs[3]; bool lost[3]; bool stopsend[3];
byte fly[3];             /* a renewal under way: 1..D+1 ticks to go, 0 none */
active proctype world() {
  byte i;
  left[1] = LEASE; left[2] = LEASE; runs[1] = true; runs[2] = true;
end:
  do
  :: atomic { /* node 0 renews (unless it has begun to fence that node) */
       if :: i = 1 :: i = 2 fi; if :: !lost[i] && !stopsend[i] && fly[i] == 0 -> fly[i] = D + 1; since[i] = 0 :: else -> skip fi; i = 0 }
  :: atomic { if :: i = 1 :: i = 2 fi; stopsend[i] = true; i = 0 } /* suspected: no more renewals */
  :: atomic { if :: i = 1 :: i = 2 fi; if :: fly[i] > 0 -> fly[i] = 0; GRANT :: else -> skip fi; i = 0 } /* arrives early */
  :: atomic { if :: i = 1 :: i = 2 fi; fly[i] = 0; i = 0 } /* dropped */
  :: atomic { /* a tick for everybody */
       i = 1;
       do :: i < 3 ->
          if :: fly[i] == 1 -> fly[i] = 0; GRANT :: fly[i] > 1 -> fly[i]-- :: else -> skip fi;
          if :: left[i] > 0 -> left[i]-- :: else -> skip fi;
          if :: left[i] == 0 -> runs[i] = false :: else -> skip fi;
          if :: since[i] < 15 -> since[i]++ :: else -> skip fi;
          if :: stopsend[i] && since[i] >= WAIT -> lost[i] = true :: else -> skip fi;
          assert(!(lost[i] && runs[i]));
          i++
       :: else -> break od; i = 0 }
  od }
