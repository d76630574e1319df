package org.palmtop.core.engine;

/** Stopwatch of one answer, started when it is made. */
final class Timings {
    private final long started = System.nanoTime();
    private long first;
    private long last = started;
    private int tokens;

    void token() {
        last = System.nanoTime();
        first = tokens++ == 0 ? last : first;
    }

    /** From the start to the first token; to now when there was none. */
    double ttftSeconds() {
        return ((tokens > 0 ? first : System.nanoTime()) - started) / 1e9;
    }

    /** Tokens per second after the first token. */
    double tokensPerSecond() {
        return tokens < 2 ? 0 : (tokens - 1) / Math.max((last - first) / 1e9, 1e-9);
    }
}
