package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Reply;
import org.palmtop.core.media.MediaItem;

/** Measures the open model: time to the first token and tokens per second, in each mode it serves. */
public final class Benchmark {
    /** After one run that warms up the caches and is not counted. */
    public static final int RUNS = 3;
    private static final int ANSWER_TOKENS = 64;

    /** One mode's question. */
    public static final class Case {
        public final String mode;
        final String question;
        final List<MediaItem> media;

        public Case(String mode, String question, List<? extends MediaItem> media) {
            this.mode = mode;
            this.question = question;
            this.media = new ArrayList<MediaItem>(media);
        }
    }

    /** One mode's medians. */
    public static final class Row {
        public final String mode;
        public final int promptTokens;
        public final int answerTokens;
        public final double ttftSeconds;
        /** 0 where the answers were shorter than two tokens. */
        public final double tokensPerSecond;

        Row(String mode, int promptTokens, int answerTokens, double ttftSeconds, double tokensPerSecond) {
            this.mode = mode;
            this.promptTokens = promptTokens;
            this.answerTokens = answerTokens;
            this.ttftSeconds = ttftSeconds;
            this.tokensPerSecond = tokensPerSecond;
        }
    }

    /** Hears how far it is, on the worker thread. */
    public interface Progress {
        void onRun(int done, int total);
    }

    private final Answerer answerer;
    private volatile boolean isCancelled;

    public Benchmark(Answerer answerer) {
        this.answerer = answerer;
    }

    /** From any thread. */
    public void cancel() {
        isCancelled = true;
        answerer.cancel();
    }

    /** Measure the cases whose mode the open model serves. Blocks. Null when it was cancelled. */
    public List<Row> run(List<Case> cases, Progress progress) {
        List<Case> served = new ArrayList<Case>();
        for (Case one : cases) {
            if (answerer.manifest().modes().contains(one.mode)) {
                served.add(one);
            }
        }
        List<Row> rows = new ArrayList<Row>();
        int done = 0;
        for (Case one : served) {
            double[] first = new double[RUNS];
            double[] speed = new double[RUNS];
            Reply reply = null;
            for (int run = -1; run < RUNS; run++) {
                if (isCancelled) {
                    return null;
                }
                reply = ask(one, run);
                if (isCancelled || reply.finishReason == Reply.FinishReason.CANCELLED) {
                    return null;
                }
                if (run >= 0) {
                    first[run] = reply.usage.ttftSeconds;
                    speed[run] = reply.usage.tokensPerSecond;
                }
                progress.onRun(++done, served.size() * (RUNS + 1));
            }
            int prompt = reply.usage.promptTokens;
            rows.add(new Row(one.mode, prompt, reply.usage.completionTokens, median(first), median(speed)));
        }
        return rows;
    }

    /** The run's number begins the prompt, so that no run finds the last one's in the KV cache. */
    private Reply ask(Case one, int run) {
        List<Message> messages = new ArrayList<Message>();
        messages.add(Message.system("Run " + (run + 2) + "."));
        messages.add(new Message("user", one.question, one.media));
        Map<String, Double> byRoute = null;
        return answerer.answer(messages, byRoute, new GenerationOptions().maxTokens(ANSWER_TOKENS), QUIET);
    }

    private static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return sorted[sorted.length / 2];
    }

    private static final AnswerListener QUIET = new AnswerListener() {
        @Override
        public void onPiece(String text) {}

        @Override
        public void onProgress(Stage stage, int done, int total) {}
    };

    /** A case of text alone. */
    public static Case text(String question) {
        return new Case("text", question, Collections.<MediaItem>emptyList());
    }
}
