package org.palmtop.core.bundle;

/** Hears of bytes that have been checked; may throw to stop. */
public interface BundleProgress {
    void onBytes(long count);
}
