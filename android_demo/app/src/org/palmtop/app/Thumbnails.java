package org.palmtop.app;

import android.graphics.Bitmap;
import android.os.Handler;
import android.os.Looper;
import android.util.LruCache;
import android.widget.ImageView;
import java.io.File;
import java.util.concurrent.Executor;
import org.palmtop.app.logic.Attachment;

/** Small pictures for the screen, decoded away from the main thread and kept for scrolling. */
final class Thumbnails {
    private static final int SIDE_PIXELS = 640;
    private static final int KEPT = 12;

    private final LruCache<String, Bitmap> kept = new LruCache<String, Bitmap>(KEPT);
    private final Handler main = new Handler(Looper.getMainLooper());
    private final Executor worker;

    Thumbnails(Executor worker) {
        this.worker = worker;
    }

    /** Put the picture into a view that may be showing another one by the time it is decoded. */
    void show(final ImageView view, Attachment picture) {
        final String path = picture.path;
        view.setTag(path);
        Bitmap bitmap = kept.get(path);
        view.setImageBitmap(bitmap);
        if (bitmap != null) {
            return;
        }
        worker.execute(new Runnable() {
            @Override
            public void run() {
                final Bitmap decoded = Photo.small(new File(path), SIDE_PIXELS);
                if (decoded == null) {
                    return; // the message still says that there was a picture
                }
                main.post(new Runnable() {
                    @Override
                    public void run() {
                        kept.put(path, decoded);
                        if (path.equals(view.getTag())) {
                            view.setImageBitmap(decoded);
                        }
                    }
                });
            }
        });
    }
}
