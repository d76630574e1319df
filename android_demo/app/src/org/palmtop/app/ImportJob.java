package org.palmtop.app;

import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.io.IOException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.palmtop.app.logic.BundleImport;
import org.palmtop.app.logic.Sizes;
import org.palmtop.app.logic.Trouble;

/** The import of a model, which goes on while screens are turned or left. At most one at a time. */
final class ImportJob {
    /** Listener, called on the main thread. */
    interface Watcher {
        void onImport();
    }

    private final PalmtopApp app;
    private final Handler main = new Handler(Looper.getMainLooper());
    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private volatile BundleImport running;
    private volatile long done;
    private volatile long total;
    private volatile String outcome = "";
    private Watcher watcher;

    ImportJob(PalmtopApp app) {
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
        return total == 0 ? 0 : done / (double) total;
    }

    /** Text on the state of the import; "" before the first one. */
    String words() {
        if (!isRunning()) {
            return outcome;
        }
        return total == 0
                ? app.getString(R.string.models_reading)
                : app.getString(R.string.models_importing, Sizes.text(done), Sizes.text(total));
    }

    void cancel() {
        BundleImport now = running;
        if (now != null) {
            now.cancel();
        }
    }

    void start(final Uri tree) {
        if (isRunning()) {
            return;
        }
        final BundleImport job = new BundleImport(app.shelf(), app);
        running = job;
        done = 0;
        total = 0;
        tell();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                outcome = copy(job, tree);
                running = null;
                tell();
            }
        });
    }

    private String copy(BundleImport job, Uri tree) {
        try {
            TreeSource source = new TreeSource(app.getContentResolver(), tree);
            File folder = job.run(source, source.name(), new BundleImport.Progress() {
                @Override
                public void onBytes(long count, long ofTotal) {
                    long whole = Math.max(1, ofTotal);
                    boolean isNews = total != ofTotal || count * 100 / whole != done * 100 / whole;
                    done = count;
                    total = ofTotal;
                    if (isNews) {
                        tell();
                    }
                }
            });
            return folder == null
                    ? app.getString(R.string.models_cancelled)
                    : app.getString(R.string.models_imported, folder.getName());
        } catch (IOException error) {
            return Words.of(app, Trouble.of(error), Trouble.detail(error));
        } catch (RuntimeException error) { // a damaged model, or the other app took its permission back
            return Words.of(app, Trouble.of(error), Trouble.detail(error));
        }
    }

    private void tell() {
        main.post(new Runnable() {
            @Override
            public void run() {
                if (watcher != null) {
                    watcher.onImport();
                }
            }
        });
    }
}
