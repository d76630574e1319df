package org.palmtop.core.engine;

import java.security.SecureRandom;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Comparator;
import java.util.PriorityQueue;
import java.util.Random;

/**
 * Sampler of the next token id from logits, with the options of one turn.
 *
 * <p>genai freezes sampling options when its Generator is made; sampling here lets every turn have its own, and keeps
 * the media placeholders from being drawn.
 */
final class Sampler {
    private final GenerationOptions options;
    private final int[] never;
    private final BitSet seen = new BitSet();
    private final Random random;

    Sampler(GenerationOptions options, int[] never, int[] prompt) {
        this.options = options;
        this.never = never;
        random = options.seed() == null ? new SecureRandom() : new Random(scatter(options.seed()));
        for (int id : prompt) {
            seen.set(id);
        }
    }

    /** The next id. */
    int draw(float[] logits) {
        double[] scores = new double[logits.length];
        double penalty = options.repetitionPenalty();
        for (int id = 0; id < scores.length; id++) {
            scores[id] = logits[id];
            if (penalty != 1.0 && seen.get(id)) {
                scores[id] *= scores[id] < 0 ? penalty : 1 / penalty;
            }
        }
        for (int id : never) {
            scores[id] = Double.NEGATIVE_INFINITY;
        }
        int token = options.temperature() == 0 ? best(scores) : sample(scores);
        seen.set(token);
        return token;
    }

    /** Random's first numbers are alike for seeds that are near each other; these are not (the end of SplitMix64). */
    private static long scatter(long seed) {
        long mixed = (seed ^ seed >>> 30) * 0xbf58476d1ce4e5b9L + 0x9e3779b97f4a7c15L;
        mixed = (mixed ^ mixed >>> 27) * 0x94d049bb133111ebL;
        return mixed ^ mixed >>> 31;
    }

    private static int best(double[] scores) {
        int best = 0;
        for (int id = 1; id < scores.length; id++) {
            best = scores[id] > scores[best] ? id : best;
        }
        return best;
    }

    private int sample(double[] scores) {
        double highest = scores[best(scores)];
        double least = options.topK() > 0 && options.topK() < scores.length ? kth(scores, options.topK()) : 0;
        boolean isCut = options.topK() > 0 && options.topK() < scores.length;
        final double[] weights = new double[scores.length];
        double sum = 0;
        for (int id = 0; id < scores.length; id++) {
            if (!isCut || scores[id] >= least) {
                weights[id] = Math.exp((scores[id] - highest) / options.temperature());
                sum += weights[id];
            }
        }
        if (options.topP() < 1) {
            sum = keepNucleus(weights, sum);
        }
        for (int id = 0; id < weights.length && options.minP() > 0; id++) {
            if (weights[id] < options.minP()) { // the most probable token's is 1
                sum -= weights[id];
                weights[id] = 0;
            }
        }
        double place = random.nextDouble() * sum;
        int last = best(weights);
        for (int id = 0; id < weights.length; id++) {
            if (weights[id] > 0) {
                place -= weights[id];
                last = id;
                if (place < 0) {
                    return id;
                }
            }
        }
        return last; // rounding left a rest
    }

    /** The k-th highest score. */
    private static double kth(double[] scores, int k) {
        PriorityQueue<Double> highest = new PriorityQueue<Double>(k);
        for (double score : scores) {
            if (highest.size() < k) {
                highest.add(score);
            } else if (score > highest.peek()) {
                highest.poll();
                highest.add(score);
            }
        }
        return highest.peek();
    }

    /** Zero all but the fewest tokens that reach top-p; gives what is left. */
    private double keepNucleus(final double[] weights, double sum) {
        // What is below this share cannot be needed: all such tokens together do not reach 1 - top-p.
        double small = sum * (1 - options.topP()) / weights.length;
        Integer[] order = new Integer[weights.length];
        int count = 0;
        for (int id = 0; id < weights.length; id++) {
            if (weights[id] >= small && weights[id] > 0) {
                order[count++] = id;
            }
        }
        Arrays.sort(order, 0, count, new Comparator<Integer>() {
            @Override
            public int compare(Integer left, Integer right) {
                return Double.compare(weights[right], weights[left]);
            }
        });
        double[] kept = new double[weights.length];
        double reached = 0;
        for (int i = 0; i < count && (i == 0 || reached < options.topP() * sum); i++) {
            kept[order[i]] = weights[order[i]];
            reached += kept[order[i]];
        }
        System.arraycopy(kept, 0, weights, 0, kept.length);
        return reached;
    }
}
