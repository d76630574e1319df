package org.palmtop.app;

import android.os.Build;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.app.logic.About;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Benchmark;
import org.palmtop.app.logic.BenchmarkReport;
import org.palmtop.app.logic.ChatState;
import org.palmtop.app.logic.Trouble;
import org.palmtop.app.logic.Wav;
import org.palmtop.core.media.MediaItem;

/** The benchmark, which goes on while screens are turned or left. */
final class BenchmarkJob {
    private static final String QUESTION =
            "Explain to a child, in a few short sentences, why the sea is salty, where the rivers that flow into it "
                    + "come from, and what happens to the water when the sun shines on it.";

    /** Listener, called on the main thread. */
    interface Watcher {
        void onBenchmark();
    }

    private final PalmtopApp app;
    private final Handler main = new Handler(Looper.getMainLooper());
    private volatile Benchmark running;
    private volatile BenchmarkReport report;
    private volatile String words = "";
    private volatile double share;
    private Watcher watcher;

    BenchmarkJob(PalmtopApp app) {
        this.app = app;
    }

    void watch(Watcher now) {
        watcher = now;
    }

    boolean isRunning() {
        return running != null;
    }

    /** 0..1. */
    double share() {
        return share;
    }

    /** Report of the last completed run; null before one. */
    BenchmarkReport report() {
        return report;
    }

    String words() {
        return words;
    }

    void cancel() {
        Benchmark now = running;
        if (now != null) {
            now.cancel();
        }
    }

    /** False when no model is ready. */
    boolean start() {
        if (isRunning() || app.chat().state().phase != ChatState.Phase.READY) {
            return false;
        }
        final Benchmark benchmark = new Benchmark(app.answerer());
        boolean isLent = app.chat().lend(new Runnable() {
            @Override
            public void run() {
                measure(benchmark);
                running = null;
                tell();
            }
        });
        if (isLent) {
            running = benchmark;
            share = 0;
            words = "";
            tell();
        }
        return isLent;
    }

    private void measure(Benchmark benchmark) {
        try {
            List<Benchmark.Row> rows = benchmark.run(cases(), new Benchmark.Progress() {
                @Override
                public void onRun(int done, int total) {
                    share = done / (double) total;
                    words = app.getString(R.string.benchmark_running, done, total);
                    tell();
                }
            });
            if (rows != null) {
                report = new BenchmarkReport(rows, about(), app.memory());
            }
            words = "";
        } catch (IOException error) {
            words = Words.of(app, Trouble.of(error), Trouble.detail(error));
        } catch (RuntimeException error) {
            words = Words.of(app, Trouble.of(error), Trouble.detail(error));
        } catch (OutOfMemoryError error) {
            words = app.getString(R.string.trouble_memory);
        }
    }

    private List<Benchmark.Case> cases() throws IOException {
        Intake intake = new Intake(app);
        Attachment look = intake.asset("image.png");
        MediaItem picture = new Photo(new File(look.path), look.width, look.height);
        MediaItem sound = new Wav(new File(intake.asset("audio.wav").path));
        List<Benchmark.Case> cases = new ArrayList<Benchmark.Case>();
        cases.add(Benchmark.text(QUESTION));
        cases.add(new Benchmark.Case("image", QUESTION, Arrays.asList(picture)));
        cases.add(new Benchmark.Case("audio", QUESTION, Arrays.asList(sound)));
        cases.add(new Benchmark.Case("image+audio", QUESTION, Arrays.asList(picture, sound)));
        return cases;
    }

    private Map<String, String> about() throws IOException {
        About about = app.about();
        Map<String, String> lines = new LinkedHashMap<String, String>();
        lines.put("phone", Build.MANUFACTURER + " " + Build.MODEL + " (" + Build.HARDWARE + ")");
        lines.put("android", Build.VERSION.RELEASE + ", API " + Build.VERSION.SDK_INT);
        lines.put("processors", String.valueOf(Runtime.getRuntime().availableProcessors()));
        lines.put("model", app.chat().state().model);
        lines.put("palmtop", about.version);
        lines.putAll(about.lines);
        return lines;
    }

    private void tell() {
        main.post(new Runnable() {
            @Override
            public void run() {
                if (watcher != null) {
                    watcher.onBenchmark();
                }
            }
        });
    }
}
