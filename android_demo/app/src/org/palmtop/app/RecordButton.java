package org.palmtop.app;

import android.Manifest;
import android.content.pm.PackageManager;
import android.view.MotionEvent;
import android.view.View;
import android.widget.ImageButton;
import android.widget.TextView;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.RecordingLimit;
import org.palmtop.app.logic.Sizes;

/**
 * The microphone button: hold it while you speak, or tap to start and tap again to end. TalkBack and switches press
 * without holding, so both must work.
 */
final class RecordButton implements View.OnTouchListener, View.OnClickListener, Recorder.Listener {
    private static final int REQUEST = 7;
    /** A press shorter than this is a tap. */
    private static final long TAP_MILLIS = 400;

    private final ChatActivity screen;
    private final PalmtopApp app;
    private final ImageButton button;
    private boolean startedByThisTouch;
    private int limitSeconds;

    RecordButton(ChatActivity screen, PalmtopApp app) {
        this.screen = screen;
        this.app = app;
        button = (ImageButton) screen.findViewById(R.id.record);
        button.setOnTouchListener(this);
        button.setOnClickListener(this);
    }

    void show() {
        app.recorder().listen(this);
        showState();
    }

    void hide() {
        app.recorder().listen(null);
    }

    void enable(boolean isReady) {
        button.setEnabled(isReady || app.recorder().isRunning());
        button.setAlpha(button.isEnabled() ? 1f : ChatActivity.DISABLED_ALPHA);
    }

    @Override
    public boolean onTouch(View view, MotionEvent event) {
        switch (event.getActionMasked()) {
            case MotionEvent.ACTION_DOWN:
                view.setPressed(true);
                startedByThisTouch = !app.recorder().isRunning();
                if (startedByThisTouch) {
                    start();
                }
                return true;
            case MotionEvent.ACTION_UP:
            case MotionEvent.ACTION_CANCEL:
                view.setPressed(false);
                boolean isTap = event.getEventTime() - event.getDownTime() < TAP_MILLIS;
                if (!startedByThisTouch || !isTap) {
                    app.recorder().stop();
                }
                return true;
            default:
                return true;
        }
    }

    /** Without touch: TalkBack, a keyboard, a switch. */
    @Override
    public void onClick(View view) {
        if (app.recorder().isRunning()) {
            app.recorder().stop();
        } else {
            start();
        }
    }

    private void start() {
        if (!app.chat().state().takesAudio) {
            screen.tell(screen.getString(R.string.record_unsupported));
        } else if (screen.checkSelfPermission(Manifest.permission.RECORD_AUDIO) != PackageManager.PERMISSION_GRANTED) {
            screen.requestPermissions(new String[] {Manifest.permission.RECORD_AUDIO}, REQUEST);
        } else {
            limitSeconds = RecordingLimit.seconds(app.chat().manifest(), app.chat().contextTokens());
            app.recorder().start(limitSeconds);
            showState();
        }
    }

    /** The finger is long gone: the next press records. */
    void onPermission(int[] granted) {
        boolean isGranted = granted.length > 0 && granted[0] == PackageManager.PERMISSION_GRANTED;
        screen.tell(screen.getString(isGranted ? R.string.record_short : R.string.record_denied));
    }

    @Override
    public void onSeconds(final double seconds) {
        screen.runOnUiThread(new Runnable() {
            @Override
            public void run() {
                TextView label = (TextView) screen.findViewById(R.id.record_time);
                String limit = Sizes.clock(limitSeconds);
                label.setText(screen.getString(R.string.record_running, Sizes.clock(seconds), limit));
            }
        });
    }

    @Override
    public void onEnd(
            final Attachment recording, final boolean isTaken, final boolean isFull, final Throwable error) {
        screen.runOnUiThread(new Runnable() {
            @Override
            public void run() {
                showState();
                if (error != null) {
                    screen.tell(Words.of(screen, Recorder.trouble(error), error.getMessage()));
                } else if (recording == null) {
                    screen.tell(screen.getString(R.string.record_short));
                } else if (!isTaken) {
                    screen.tell(screen.getString(R.string.record_unsupported));
                } else if (isFull) {
                    screen.tell(screen.getString(R.string.record_full, Sizes.clock(recording.seconds)));
                }
            }
        });
    }

    private void showState() {
        boolean isRunning = app.recorder().isRunning();
        button.setImageResource(isRunning ? R.drawable.ic_stop : R.drawable.ic_mic);
        button.setContentDescription(screen.getString(isRunning ? R.string.do_record_end : R.string.do_record));
        screen.findViewById(R.id.record_time).setVisibility(isRunning ? View.VISIBLE : View.GONE);
    }
}
